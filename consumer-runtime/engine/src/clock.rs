//! The clock of a running process.

use millrace_core::time::{Clock, Monotonic};
use tokio::time::Instant;

/// The clock of a running process. It follows tokio's time, so that tests which pause that pause this too.
#[derive(Debug)]
pub struct TokioClock {
    start: Instant,
}

impl TokioClock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for TokioClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}
