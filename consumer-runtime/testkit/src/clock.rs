//! A clock that stands still until it is told to move.

use std::{sync::Mutex, time::Duration};

use jiff::Timestamp;
use millrace_core::time::{Clock, Monotonic};

/// A clock that stands still until it is told to move.
#[derive(Debug, Default)]
pub struct ManualClock {
    elapsed: Mutex<Duration>,
}

impl ManualClock {
    /// Moves the clock.
    pub fn advance(&self, by: Duration) {
        *self.elapsed.lock().unwrap() += by;
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(*self.elapsed.lock().unwrap())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap() + *self.elapsed.lock().unwrap()
    }
}
