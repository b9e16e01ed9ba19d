//! How much may be taken from the broker: counts and bytes.

use std::time::Duration;

use crate::rate::Rate;

/// How much more may be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// Deliveries.
    pub messages: u32,
    /// Bytes.
    pub bytes: u32,
}

/// Bounds of what is taken and not yet settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowLimits {
    /// Concurrent handler calls. At least so many deliveries may be held.
    pub workers: u32,
    /// Most deliveries held.
    pub messages: u32,
    /// Most bytes held. One delivery is always allowed, whatever its size.
    pub bytes: u32,
    /// The time within which what is taken is to start, `None` where nothing is taken ahead of the workers.
    pub start_within: Option<Duration>,
    /// How often attempts may start, `None` where nothing limits it.
    pub rate: Option<Rate>,
}

/// What is taken and not yet settled, and how much more may be.
///
/// The window follows the handler: it opens to what can start in time, so that a slow consumer does not keep events from
/// its fellow replicas. It starts at two deliveries for each worker.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    messages: u32,
    bytes: u32,
    /// Mean duration of an attempt in nanoseconds, an exponential average over about 16 of them; `None` before the first.
    mean_attempt: Option<u64>,
}

impl Window {
    /// An empty window.
    pub fn new(limits: WindowLimits) -> Self {
        Self { limits, messages: 0, bytes: 0, mean_attempt: None }
    }

    /// How much may be taken now, or `None` when the window is full.
    pub fn budget(&self) -> Option<Budget> {
        let messages = self.size().saturating_sub(self.messages);
        let bytes = self.limits.bytes.saturating_sub(self.bytes);
        let alone = self.messages == 0;
        (messages > 0 && (bytes > 0 || alone)).then_some(Budget { messages, bytes: bytes.max(1) })
    }

    /// Whether there is room for more than a few: an asking for each delivery that ends would cost more than the delivery.
    /// What is held beside that keeps the workers busy.
    pub fn is_worth_filling(&self) -> bool {
        let size = self.size();
        let enough = (size / 4).min(size.saturating_sub(self.limits.workers)).max(1);
        self.budget().is_some_and(|budget| budget.messages >= enough)
    }

    /// Counts a delivery in.
    pub fn take(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(saturate(bytes));
    }

    /// Counts a delivery out.
    pub fn give_back(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(saturate(bytes));
    }

    /// Learns how long an attempt took.
    pub fn observe(&mut self, attempt: Duration) {
        let attempt = nanoseconds(attempt);
        let mean = self.mean_attempt.unwrap_or(attempt);
        self.mean_attempt = Some(mean.saturating_mul(15).saturating_add(attempt) / 16);
    }

    /// How long an attempt takes, as far as is known; nothing before the first.
    pub fn mean_attempt(&self) -> Duration {
        Duration::from_nanos(self.mean_attempt.unwrap_or_default())
    }

    /// Deliveries that the window has room for in all.
    pub fn size(&self) -> u32 {
        let floor = self.limits.workers.saturating_mul(2);
        let wanted = match (self.limits.start_within, self.mean_attempt) {
            (Some(time), Some(mean)) => {
                let rounds = nanoseconds(time).checked_div(mean.max(1)).unwrap_or_default();
                u32::try_from(rounds).unwrap_or(u32::MAX).saturating_mul(self.limits.workers)
            }
            (None, _) | (_, None) => floor,
        };
        // A consumer that needs longer than that for one attempt takes only what can start at once.
        let size = wanted.max(self.limits.workers).min(self.limits.messages.max(self.limits.workers));
        // Nor is more taken than the rate limit lets start in that time.
        let most = match (self.limits.start_within, self.limits.rate) {
            (Some(time), Some(rate)) => rate.most_within(time),
            (None, _) | (_, None) => u32::MAX,
        };
        size.min(most)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn saturate(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ports::Redelivery;

    fn limits() -> WindowLimits {
        let start_within = Some(Duration::from_secs(15));
        WindowLimits { workers: 4, messages: 1000, bytes: 1_000_000, start_within, rate: None }
    }

    #[test]
    fn a_slow_handler_leaves_at_the_broker_what_it_could_not_start_in_time() {
        let mut window = Window::new(limits());
        assert_eq!(window.size(), 8, "before anything is known");

        (0..200).for_each(|_| window.observe(Duration::from_millis(1)));
        assert_eq!(window.size(), 1000, "a fast handler may fill the window");

        (0..200).for_each(|_| window.observe(Duration::from_secs(5)));
        assert_eq!(window.size(), 12, "three rounds of 5 s fit into 15 s");

        (0..200).for_each(|_| window.observe(Duration::from_secs(60)));
        assert_eq!(window.size(), 4, "never less than what can start at once");
    }

    #[test]
    fn much_is_taken_ahead_of_a_fast_handler_unless_a_crash_would_lose_it_or_others_were_given_it() {
        let size = |redelivery: Redelivery| {
            let mut window = Window::new(WindowLimits { start_within: redelivery.start_within(), ..limits() });
            (0..200).for_each(|_| window.observe(Duration::from_millis(1)));
            window.size()
        };

        assert_eq!(size(Redelivery::ToTheNextReader), 1000);
        assert_eq!(size(Redelivery::AfterAckWait(Duration::from_secs(30))), 1000);
        assert_eq!(size(Redelivery::AfterAckWait(Duration::from_millis(4))), 8, "it would be given to others");
        assert_eq!(size(Redelivery::Never), 8);
    }

    #[test]
    fn a_rate_limit_leaves_at_the_broker_what_it_would_not_let_start_in_time() {
        let limited = |per_second, burst| {
            let mut window = Window::new(WindowLimits { rate: Some(Rate { per_second, burst }), ..limits() });
            (0..200).for_each(|_| window.observe(Duration::from_millis(1)));
            window.size()
        };

        assert_eq!(limited(10, 20), 170, "a burst, and ten a second for 15 s");
        assert_eq!(limited(1000, 1), 1000, "a limit that does not bind changes nothing");
    }

    #[test]
    fn one_delivery_larger_than_the_byte_limit_is_taken_alone() {
        let mut window = Window::new(limits());

        window.take(5_000_000);
        assert_eq!(window.budget(), None);

        window.give_back(5_000_000);
        assert!(window.budget().is_some());
    }

    proptest! {
        #[test]
        fn what_is_taken_within_the_budget_never_exceeds_the_limits(sizes in prop::collection::vec(0_usize..200_000, 0..200)) {
            let mut window = Window::new(limits());
            let (mut count, mut total) = (0, 0);
            for size in sizes {
                let Some(budget) = window.budget() else { break };
                if size > budget.bytes as usize && count > 0 { break }
                window.take(size);
                count += 1;
                total += size;
                prop_assert!(count <= 8 && (total <= 1_000_000 || count == 1));
            }
        }
    }
}
