//! How often attempts may start.

use std::time::Duration;

use crate::time::Monotonic;

/// A rate with a burst.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// Starts in a second; at least 1.
    pub per_second: u32,
    /// Starts at once after a pause; at least 1.
    pub burst: u32,
}

impl Rate {
    /// The most starts in any time of this length.
    pub fn most_within(self, time: Duration) -> u32 {
        let millis = time.as_millis().saturating_mul(u128::from(self.per_second));
        let refilled = u32::try_from(millis.checked_div(1000).unwrap_or_default()).unwrap_or(u32::MAX);
        refilled.saturating_add(self.burst.max(1))
    }

    fn interval(self) -> Duration {
        Duration::from_secs(1).checked_div(self.per_second.max(1)).unwrap_or_default()
    }
}

/// A token bucket, full at the start. It keeps the time at which it is full again, so that nothing has to refill it.
#[derive(Debug)]
pub struct TokenBucket {
    rate: Rate,
    full_at: Monotonic,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self { rate, full_at: Monotonic::default() }
    }

    /// Takes a token, or says how long it is until there is one.
    pub fn take(&mut self, now: Monotonic) -> Result<(), Duration> {
        let interval = self.rate.interval();
        let missing = self.full_at.since(now);
        let most_missing = interval.saturating_mul(self.rate.burst.max(1).saturating_sub(1));
        if missing > most_missing {
            return Err(missing.saturating_sub(most_missing));
        }
        self.full_at = now.after(missing).after(interval);
        Ok(())
    }

    /// Puts back a token that was taken and not used.
    pub fn give_back(&mut self) {
        self.full_at = Monotonic(self.full_at.0.saturating_sub(self.rate.interval()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic(Duration::from_millis(millis))
    }

    #[test]
    fn after_a_burst_a_token_comes_with_each_interval() {
        let mut bucket = TokenBucket::new(Rate { per_second: 10, burst: 3 });

        let taken: Vec<u64> = (0..500).filter(|millis| bucket.take(at(*millis)).is_ok()).collect();

        assert_eq!(taken, [0, 1, 2, 100, 200, 300, 400]);
    }

    #[test]
    fn a_token_that_is_given_back_can_be_taken_at_once() {
        let mut bucket = TokenBucket::new(Rate { per_second: 1, burst: 1 });
        bucket.take(at(0)).unwrap();
        assert_eq!(bucket.take(at(400)), Err(Duration::from_millis(600)));

        bucket.give_back();

        assert_eq!(bucket.take(at(400)), Ok(()));
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_the_rate_and_one_burst(
            per_second in 1_u32..2000, burst in 1_u32..50, waits in prop::collection::vec(0_u64..50, 1..300)
        ) {
            let rate = Rate { per_second, burst };
            let mut bucket = TokenBucket::new(rate);
            let mut now = 0;
            let mut taken = Vec::new();
            for wait in waits {
                now += wait;
                if bucket.take(at(now)).is_ok() {
                    taken.push(now);
                }
            }
            for (index, first) in taken.iter().enumerate() {
                for (count, last) in taken.iter().skip(index).enumerate() {
                    // One more than the rate allows, because an interval is cut to whole nanoseconds.
                    let most = rate.most_within(Duration::from_millis(last - first)) as usize + 1;
                    prop_assert!(count < most, "{} starts in {} ms", count + 1, last - first);
                }
            }
        }

        #[test]
        fn who_waits_as_long_as_told_gets_a_token(per_second in 1_u32..1_000_000, burst in 1_u32..50, tries in 1_usize..200) {
            let mut bucket = TokenBucket::new(Rate { per_second, burst });
            let mut now = at(7);
            for _ in 0..tries {
                if let Err(wait) = bucket.take(now) {
                    now = now.after(wait);
                    prop_assert_eq!(bucket.take(now), Ok(()));
                }
            }
        }
    }
}
