//! Clocks for tests: one that stands still until it is told to move, and one that runs.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

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

/// A clock that runs, for servers that live in real time.
#[derive(Debug)]
pub struct WallClock(Instant);

impl WallClock {
    /// A clock that begins now.
    pub fn start() -> Arc<dyn Clock> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for WallClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.elapsed())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}
