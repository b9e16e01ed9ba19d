//! The acks on their way, confirmed many at a time.
//!
//! An ack with a reply subject is confirmed by the server, which costs it more than the delivery did, and the one who waits
//! for it a round trip. A server reads a connection in order, so one round trip confirms every ack before it. What a lost
//! connection took with it is sent again on the next one. An ack that is lost all the same means another delivery, which
//! the store recognises.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Subject;
use bytes::Bytes;
use tracing::debug;

use crate::connection::Connection;

/// Acks that one round trip confirms. Some hundreds make its cost vanish; each is kept until then, in some 100 bytes.
const TOGETHER: usize = 512;

/// Acks that may wait to be confirmed. Who would make it more waits for a round trip.
const UNCONFIRMED_MAX: usize = 4 * TOGETHER;

const ACK: Bytes = Bytes::from_static(b"+ACK");

/// The acks of one durable.
#[derive(Debug)]
pub(crate) struct Acks {
    connection: Connection,
    /// After this time the server has delivered again what it got no ack for, so an old ack is not repeated.
    ack_wait: Duration,
    sent: Mutex<Sent>,
    /// Held by the one who waits for a round trip.
    confirming: tokio::sync::Mutex<()>,
}

/// Acks that were sent and are not confirmed, in their order. Pure.
#[derive(Debug, Default)]
struct Sent {
    acks: VecDeque<(Subject, Instant)>,
    /// How many were confirmed or forgotten before them.
    before: u64,
}

impl Acks {
    pub(crate) fn new(connection: Connection, ack_wait: Duration) -> Self {
        Self { connection, ack_wait, sent: Mutex::default(), confirming: tokio::sync::Mutex::default() }
    }

    /// Sends acks. Every few hundred of them it waits until the server has read them.
    pub(crate) async fn send(&self, replies: &[Subject]) -> Result<(), String> {
        // Noted first: what a lost connection takes with it is known by then.
        let unconfirmed = self.sent().push(replies, Instant::now());
        for reply in replies {
            self.connection.client.publish(reply.clone(), ACK).await.map_err(|error| error.to_string())?;
        }
        if unconfirmed >= UNCONFIRMED_MAX {
            let _next = self.confirming.lock().await;
            if self.sent().acks.len() >= UNCONFIRMED_MAX {
                self.confirm_or_forget().await;
            }
        } else if unconfirmed >= TOGETHER
            && let Ok(_next) = self.confirming.try_lock()
        {
            self.confirm_or_forget().await;
        }
        Ok(())
    }

    /// Returns when the server has read everything sent so far.
    pub(crate) async fn flush(&self) -> Result<(), String> {
        let end = self.sent().end();
        self.connection.round_trip().await?;
        self.sent().ends_before(end);
        Ok(())
    }

    /// The connection is a new one: what was not confirmed on the one before is sent again.
    pub(crate) async fn send_again(&self) {
        let again = self.sent().younger_than(self.ack_wait, Instant::now());
        if !again.is_empty() {
            debug!(acks = again.len(), "a new connection: acks are sent again");
        }
        for reply in again {
            if let Err(error) = self.connection.client.publish(reply, ACK).await {
                debug!(%error, "failed to send an ack again");
                return;
            }
        }
    }

    /// Without an answer the oldest are forgotten, so that nobody waits for them: they are delivered again and recognised.
    async fn confirm_or_forget(&self) {
        if let Err(error) = self.flush().await {
            debug!(error, "acks are not confirmed");
            let mut sent = self.sent();
            let end = sent.before.saturating_add(u64::try_from(TOGETHER).unwrap_or(u64::MAX));
            if sent.acks.len() >= UNCONFIRMED_MAX {
                sent.ends_before(end);
            }
        }
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent {
    /// Acks are sent. How many wait to be confirmed.
    fn push(&mut self, replies: &[Subject], now: Instant) -> usize {
        self.acks.extend(replies.iter().map(|reply| (reply.clone(), now)));
        self.acks.len()
    }

    /// The number of the next ack.
    fn end(&self) -> u64 {
        self.before.saturating_add(u64::try_from(self.acks.len()).unwrap_or(u64::MAX))
    }

    /// Nothing is to be remembered of the acks before this number.
    fn ends_before(&mut self, number: u64) {
        let gone = usize::try_from(number.saturating_sub(self.before)).unwrap_or(usize::MAX).min(self.acks.len());
        self.acks.drain(..gone);
        self.before = self.before.max(number);
    }

    fn younger_than(&self, age: Duration, now: Instant) -> Vec<Subject> {
        let young = |sent_at: Instant| now.saturating_duration_since(sent_at) < age;
        self.acks.iter().filter(|(_, sent_at)| young(*sent_at)).map(|(reply, _)| reply.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(30);

    fn replies(sent: &Sent, now: Instant) -> Vec<String> {
        sent.younger_than(AGE, now).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_sent_while_a_round_trip_is_on_its_way_is_not_confirmed_by_it() {
        let (mut sent, now) = (Sent::default(), Instant::now());
        assert_eq!((sent.push(&["a".into()], now), sent.push(&["b".into()], now)), (1, 2));
        let (first, earlier) = (sent.end(), sent.end() - 1);
        sent.push(&["c".into()], now);

        sent.ends_before(first);
        assert_eq!(replies(&sent, now), ["c"]);

        // A round trip that began before and ends after changes nothing.
        sent.ends_before(earlier);
        assert_eq!(replies(&sent, now), ["c"]);
    }

    #[test]
    fn an_ack_is_not_repeated_when_the_server_has_delivered_again() {
        let (mut sent, now) = (Sent::default(), Instant::now());
        sent.push(&["old".into()], now);
        sent.push(&["new".into()], now + AGE);

        assert_eq!(replies(&sent, now + AGE), ["new"]);
    }
}
