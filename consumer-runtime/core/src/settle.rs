//! Telling the broker what became of a delivery.

use std::time::Duration;

use crate::time::Monotonic;

/// What the broker is told about a delivery.
///
/// There is no "terminate": a dead letter's original is settled as done once its dead letter is confirmed, so a late
/// word can never remove an event that another process has at work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settlement {
    /// Its effect is recorded, or its dead letter confirmed: do not deliver it again.
    Done,
    /// Deliver it again after this time.
    RetryAfter(Duration),
    /// Work on it goes on: do not deliver it to anybody else yet.
    Extend,
}

/// The local end of the time that the broker gave for a delivery.
///
/// The broker matches a settlement by sequence and not by holder. After this point the delivery may be at work
/// elsewhere, and a retry or an extension would take it away from there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AckDeadline(Option<Monotonic>);

impl AckDeadline {
    /// The deadline of a delivery received or extended at `from`. `ack_wait` is `None` where the broker waits for no
    /// settlement.
    pub fn new(from: Monotonic, ack_wait: Option<Duration>) -> Self {
        // A tenth is kept back for the way to the server.
        Self(ack_wait.map(|wait| from.after(wait.saturating_sub(wait.checked_div(10).unwrap_or_default()))))
    }

    /// Whether `settlement` may be sent at `now`.
    ///
    /// `Done` always may: the effect is recorded, so whoever else holds the event would only find that out.
    pub fn allows(self, settlement: Settlement, now: Monotonic) -> bool {
        match settlement {
            Settlement::Done => true,
            Settlement::RetryAfter(_) | Settlement::Extend => self.0.is_none_or(|deadline| now < deadline),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_ack_deadline_only_done_may_be_sent() {
        let deadline = AckDeadline::new(Monotonic(Duration::from_secs(100)), Some(Duration::from_secs(30)));
        let (before, after) = (Monotonic(Duration::from_secs(126)), Monotonic(Duration::from_secs(127)));

        for settlement in [Settlement::RetryAfter(Duration::ZERO), Settlement::Extend] {
            assert!(deadline.allows(settlement, before));
            assert!(!deadline.allows(settlement, after));
        }
        assert!(deadline.allows(Settlement::Done, after));
    }
}
