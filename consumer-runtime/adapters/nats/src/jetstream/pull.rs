//! The books of the pull loop: what was asked of the server and has not come. Pure.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use millrace_core::{time::Monotonic, window::Budget};
use serde::Serialize;

use crate::jetstream::pin::GROUP;

/// A pull request ends by itself after this time. A reader that leaves waits for that, and what comes to it meanwhile waits
/// too: so it is as short as the heartbeat allows.
const EXPIRES: Duration = Duration::from_secs(2);

/// While a pull request waits, the server says so at this interval.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A pull request, as the server reads it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Pull {
    batch: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u32>,
    #[serde(rename = "expires", serialize_with = "nanoseconds")]
    expires: Duration,
    #[serde(serialize_with = "nanoseconds", skip_serializing_if = "Duration::is_zero")]
    idle_heartbeat: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'static str>,
    /// The pin, which the server has given to the one reader that gets events.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// What was asked of the server and has not come.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    outstanding: u32,
    silent_since: Monotonic,
    asked_at: Monotonic,
    /// The next delivery is larger than what was asked for: it is asked for alone, without a limit.
    oversized: bool,
}

/// What a message without an event says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// The pull waits.
    Waiting,
    /// The pull ended.
    Ended,
    /// The durable is gone, or nobody serves it.
    NoConsumer,
    /// The pull was made with a pin that is not the one of the durable.
    WrongPin,
}

impl Pull {
    /// A pull that no event fits into. It only says that the one with this pin is there.
    pub(crate) fn of_nothing(id: String) -> Self {
        let (expires, idle_heartbeat) = (HEARTBEAT, Duration::ZERO);
        Self { batch: 1, max_bytes: Some(1), expires, idle_heartbeat, group: Some(GROUP), id: Some(id) }
    }

    /// This pull on a durable that gives its events to one reader; with the pin, where this is the one.
    pub(crate) fn pinned(self, id: Option<String>) -> Self {
        Self { group: Some(GROUP), id, ..self }
    }
}

impl Pulls {
    /// The pull to send next, if any. Called with the room that there is now; at `now` it counts as sent.
    pub(crate) fn next(&mut self, room: Budget, now: Monotonic) -> Option<Pull> {
        // Half a window at a time: few requests when it is busy, and never none outstanding.
        if self.outstanding > room.messages / 2 {
            return None;
        }
        let batch = if self.oversized { 1 } else { room.messages.saturating_sub(self.outstanding) };
        if batch == 0 || (self.oversized && self.outstanding > 0) {
            return None;
        }
        // Half of the room, since the pull before may still bring what it asked for: with half of the room that there was
        // then, less what has come since, both together stay within the room.
        let max_bytes = (!self.oversized).then_some((room.bytes / 2).max(1));
        self.oversized = false;
        self.outstanding = self.outstanding.saturating_add(batch);
        self.silent_since = now;
        self.asked_at = now;
        Some(Pull { batch, max_bytes, expires: EXPIRES, idle_heartbeat: HEARTBEAT, group: None, id: None })
    }

    /// When at the earliest a delivery came that was there before it was waited for: nothing comes after the last pull has
    /// expired, and while nobody takes events nothing is asked for.
    pub(crate) fn came_at(&self, now: Monotonic) -> Monotonic {
        if now.since(self.asked_at) > EXPIRES { self.asked_at } else { now }
    }

    /// A delivery came.
    pub(crate) fn delivered(&mut self, now: Monotonic) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.silent_since = now;
    }

    /// A message without an event came. What it says.
    pub(crate) fn status(
        &mut self,
        status: StatusCode,
        description: Option<&str>,
        headers: Option<&HeaderMap>,
        now: Monotonic,
    ) -> Status {
        self.silent_since = now;
        let description = description.unwrap_or_default();
        if status == StatusCode::IDLE_HEARTBEAT {
            return Status::Waiting;
        }
        self.outstanding = self.outstanding.saturating_sub(pending(headers).unwrap_or(self.outstanding));
        if status == StatusCode::NO_RESPONDERS || description.contains("Consumer Deleted") {
            return Status::NoConsumer;
        }
        if status.as_u16() == 423 {
            return Status::WrongPin;
        }
        if description.contains("Exceeds MaxBytes") {
            self.oversized = true;
        }
        Status::Ended
    }

    /// Whether anything was asked for that has neither come nor ended.
    pub(crate) fn are_outstanding(&self) -> bool {
        self.outstanding > 0
    }

    /// What was asked for is forgotten: the connection is a new one, or the server has fallen silent.
    pub(crate) fn forget(&mut self) {
        self.outstanding = 0;
    }

    /// How long the server may stay silent before it counts as gone. It has missed two heartbeats by then.
    pub(crate) fn patience(&self, now: Monotonic) -> Duration {
        self.silent_since.after(HEARTBEAT * 2).since(now)
    }
}

/// How much of an ended pull had not been delivered.
fn pending(headers: Option<&HeaderMap>) -> Option<u32> {
    headers?.get("Nats-Pending-Messages")?.as_str().parse().ok()
}

fn nanoseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Monotonic = Monotonic(Duration::from_secs(100));

    fn room(messages: u32) -> Budget {
        Budget { messages, bytes: 1_000 }
    }

    fn ended(pulls: &mut Pulls, description: &str, pending: u32) -> Status {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Pending-Messages", pending.to_string().as_str());
        pulls.status(StatusCode::TIMEOUT, Some(description), Some(&headers), NOW)
    }

    #[test]
    fn no_more_is_asked_for_than_there_is_room() {
        let mut pulls = Pulls::default();
        assert_eq!(pulls.next(room(100), NOW).unwrap().batch, 100);

        assert_eq!(pulls.next(room(100), NOW), None, "all of it is outstanding");
        (0..60).for_each(|_| pulls.delivered(NOW));
        assert_eq!(pulls.next(room(40), NOW), None, "what came fills the room");
        assert_eq!(pulls.next(room(100), NOW).unwrap().batch, 60, "what was settled makes room");
    }

    #[test]
    fn two_pulls_together_ask_for_no_more_bytes_than_there_is_room() {
        let mut pulls = Pulls::default();
        let first = pulls.next(Budget { messages: 100, bytes: 1_000 }, NOW).unwrap().max_bytes.unwrap();
        (0..50).for_each(|_| pulls.delivered(NOW));
        let (came, held) = (300, 300);

        let second = pulls.next(Budget { messages: 100, bytes: 1_000 - held }, NOW).unwrap().max_bytes.unwrap();

        assert!(held + (first - came) + second <= 1_000, "{first} and {second}");
    }

    #[test]
    fn what_lay_there_while_nobody_took_events_counts_from_the_last_pull() {
        let mut pulls = Pulls::default();
        pulls.next(room(100), NOW);

        let (soon, late) = (NOW.after(EXPIRES), NOW.after(EXPIRES * 10));

        assert_eq!((pulls.came_at(soon), pulls.came_at(late)), (soon, NOW));
    }

    #[test]
    fn what_an_ended_pull_did_not_bring_is_asked_for_again() {
        let mut pulls = Pulls::default();
        pulls.next(room(100), NOW);
        (0..30).for_each(|_| pulls.delivered(NOW));

        assert_eq!(ended(&mut pulls, "Request Timeout", 70), Status::Ended);

        assert_eq!(pulls.next(room(70), NOW).unwrap().batch, 70);
    }

    #[test]
    fn a_delivery_larger_than_the_room_is_asked_for_alone() {
        let mut pulls = Pulls::default();
        pulls.next(room(100), NOW);
        ended(&mut pulls, "Message Size Exceeds MaxBytes", 100);

        let pull = pulls.next(room(100), NOW).unwrap();

        assert_eq!((pull.batch, pull.max_bytes), (1, None));
    }
}
