//! Delays that double.

use std::time::Duration;

/// Exponential backoff with a cap and jitter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// The delay after the first failure.
    pub initial: Duration,
    /// The largest delay, before jitter.
    pub max: Duration,
    /// Percentage by which a delay is shortened or lengthened, 0 to 100.
    pub jitter_percent: u8,
}

impl Backoff {
    /// The delay after `failures` failures in a row (1 or more).
    ///
    /// `entropy` is any number drawn at random; the same number gives the same delay.
    pub fn delay(&self, failures: u32, entropy: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let base = self.initial.saturating_mul(factor).min(self.max);
        let spread = base.saturating_mul(u32::from(self.jitter_percent.min(100))).checked_div(100).unwrap_or_default();
        // Uniform in [base - spread, base + spread], in steps of a 1024th.
        let step = u32::try_from(entropy % 1025).unwrap_or_default();
        let offset = spread.saturating_mul(2).saturating_mul(step).checked_div(1024).unwrap_or_default();
        base.saturating_sub(spread).saturating_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_delay_doubles_up_to_its_cap() {
        let backoff = Backoff { initial: Duration::from_millis(500), max: Duration::from_secs(3), jitter_percent: 0 };

        let delays: Vec<_> = (1..=5).map(|failures| backoff.delay(failures, 7).as_millis()).collect();

        assert_eq!(delays, [500, 1000, 2000, 3000, 3000]);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_percentage(failures in 0_u32.., entropy: u64, jitter_percent in 0_u8..=100, initial in 1_u64..100_000) {
            let backoff = Backoff { initial: Duration::from_millis(initial), max: Duration::from_secs(60), jitter_percent };
            let plain = Backoff { jitter_percent: 0, ..backoff }.delay(failures, entropy);

            let delay = backoff.delay(failures, entropy);

            let spread = plain * u32::from(jitter_percent) / 100;
            prop_assert!(delay + spread >= plain && delay <= plain + spread, "{delay:?} {plain:?} {spread:?}");
        }
    }
}
