//! Points in time, as values.

use std::time::Duration;

/// A point on a monotonic clock: the time since the clock's own beginning.
///
/// Deadlines use it and never the wall clock, which may jump.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    /// The point `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// The time from `earlier` to this point, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where the engine takes its time from.
pub trait Clock: Send + Sync {
    /// Now, for deadlines.
    fn monotonic(&self) -> Monotonic;
    /// Now, for people: dead letters and logs.
    fn wall(&self) -> jiff::Timestamp;
}
