//! What has come and is not yet taken. Publishers of NATS core do not wait for their consumers, so it is bounded, and what
//! comes beyond the bound is dropped.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_nats::Message;
use millrace_core::window::Budget;
use tokio::sync::Notify;
use tracing::warn;

use crate::convert::payload_from;

/// Bytes that a message takes beside its subject, headers and payload.
const OVERHEAD: usize = 256;

/// Messages in the order in which they came.
pub(super) struct Waiting {
    state: Mutex<State>,
    news: Notify,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    dropped: u64,
    /// The bound was met since all that waited was taken.
    overflows: bool,
    ended: bool,
}

/// What was taken.
pub(super) enum Taken {
    Some(Vec<Message>),
    /// Nothing waits.
    Nothing,
    /// Nothing waits, and nothing will.
    Ended,
}

impl Waiting {
    /// Room for so many bytes. One message always has room, whatever its size.
    pub(super) fn up_to(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), news: Notify::new(), max_bytes }
    }

    /// A message has come. It is dropped when there is no room for it.
    pub(super) fn add(&self, mut message: Message) {
        let mut state = self.state();
        let bytes = state.bytes.saturating_add(size(&message));
        if bytes > self.max_bytes && !state.messages.is_empty() {
            state.dropped += 1;
            if !std::mem::replace(&mut state.overflows, true) {
                warn!("messages come faster than they are taken: what has no room is dropped");
            }
            return;
        }
        message.payload = payload_from(message.payload);
        state.bytes = bytes;
        state.messages.push_back(message);
        drop(state);
        self.news.notify_one();
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.news.notify_one();
    }

    /// Takes what fits, at least one message.
    pub(super) fn take(&self, budget: Budget) -> Taken {
        let mut state = self.state();
        let (mut taken, mut bytes) = (Vec::new(), 0_usize);
        while let Some(next) = state.messages.front().map(size)
            && (taken.is_empty()
                || u32::try_from(taken.len()).is_ok_and(|messages| messages < budget.messages)
                    && u32::try_from(bytes.saturating_add(next)).is_ok_and(|bytes| bytes <= budget.bytes))
        {
            bytes += next;
            taken.extend(state.messages.pop_front());
        }
        state.bytes -= bytes;
        state.overflows &= !state.messages.is_empty();
        match (taken.is_empty(), state.ended) {
            (false, _) => Taken::Some(taken),
            (true, false) => Taken::Nothing,
            (true, true) => Taken::Ended,
        }
    }

    /// Returns when something came or all ended since it was last waited for. For one waiter.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// The messages that were dropped since it was last asked.
    pub(super) fn dropped(&self) -> u64 {
        std::mem::take(&mut self.state().dropped)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(message: &Message) -> usize {
    message.length.saturating_add(OVERHEAD)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test reports")]
mod tests {
    use super::*;

    fn message(number: u8, length: usize) -> Message {
        Message {
            subject: "orders".into(),
            reply: None,
            payload: vec![number].into(),
            headers: None,
            status: None,
            description: None,
            length: length - OVERHEAD,
        }
    }

    fn numbers(taken: Taken) -> Vec<u8> {
        let Taken::Some(messages) = taken else { return Vec::new() };
        messages.iter().map(|message| message.payload[0]).collect()
    }

    #[test]
    fn what_has_no_room_is_dropped_and_counted_and_what_is_taken_makes_room() {
        let waiting = Waiting::up_to(1000);
        let all = Budget { messages: 100, bytes: u32::MAX };

        waiting.add(message(1, 5000));
        waiting.add(message(2, 300));
        assert_eq!(numbers(waiting.take(all)), [1], "one has room, whatever its size");
        for number in 3..=6 {
            waiting.add(message(number, 300));
        }
        assert_eq!(numbers(waiting.take(all)), [3, 4, 5]);
        waiting.add(message(7, 300));
        assert_eq!(numbers(waiting.take(all)), [7]);

        assert_eq!((waiting.dropped(), waiting.dropped()), (2, 0));
    }

    #[test]
    fn no_more_is_taken_than_there_is_room_for_but_always_one_and_the_end_comes_after_the_last() {
        let waiting = Waiting::up_to(10_000);
        for number in 0..6 {
            waiting.add(message(number, 300));
        }
        waiting.end();

        assert_eq!(numbers(waiting.take(Budget { messages: 2, bytes: u32::MAX })), [0, 1]);
        assert_eq!(numbers(waiting.take(Budget { messages: 9, bytes: 700 })), [2, 3]);
        assert_eq!(numbers(waiting.take(Budget { messages: 9, bytes: 1 })), [4]);
        assert_eq!(numbers(waiting.take(Budget { messages: 9, bytes: u32::MAX })), [5]);
        assert!(matches!(waiting.take(Budget { messages: 9, bytes: 1 }), Taken::Ended));
    }
}
