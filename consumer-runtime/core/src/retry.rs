//! How many attempts an event gets, and how much time.

use std::time::Duration;

use jiff::Timestamp;

use crate::backoff::Backoff;

/// How many attempts an event gets, and how they are spaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryPolicy {
    /// Attempts, the first included; at least 1.
    pub max_attempts: u32,
    /// The age from which an event is not tried any more, `None` where there is no such age.
    pub max_age: Option<Duration>,
    /// The delays between them.
    pub backoff: Backoff,
}

impl RetryPolicy {
    /// Whether attempt number `attempt` may start. The first is 1.
    ///
    /// Attempts are counted before the handler runs, so an event that kills its process gets here with a number past
    /// the limit and is given up without another try.
    pub fn allows(&self, attempt: u32) -> bool {
        attempt <= self.max_attempts
    }

    /// The time in which attempts may start, given when the event was published; `None` where nothing limits it.
    pub fn left(&self, published_at: Option<Timestamp>, now: impl FnOnce() -> Timestamp) -> Option<Duration> {
        let (max_age, published_at) = (self.max_age?, published_at?);
        // An event of the future, by clocks that differ, is new.
        let age = Duration::try_from(now().duration_since(published_at)).unwrap_or_default();
        Some(max_age.saturating_sub(age))
    }

    /// Whether another attempt may follow attempt number `attempt`.
    pub fn allows_after(&self, attempt: u32) -> bool {
        attempt < self.max_attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_shrinks_with_the_age_and_never_grows_beyond_the_limit() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO, jitter_percent: 0 };
        let policy = RetryPolicy { max_attempts: 1, max_age: Some(Duration::from_secs(60)), backoff };
        let left = |published| policy.left(Some(at(published)), || at(1000)).unwrap().as_secs();

        assert_eq!([2000, 1000, 980, 940, 0].map(left), [60, 60, 40, 0, 0]);
        assert_eq!(policy.left(None, || at(1000)), None);
        assert_eq!(RetryPolicy { max_age: None, ..policy }.left(Some(at(0)), || at(1000)), None);
    }
}
