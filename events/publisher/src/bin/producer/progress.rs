//! The rate, and how far it is.

use std::time::{Duration, Instant};

/// Keeps the rate and tells how far it is.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    count: u32,
    sent: u32,
    told: Instant,
}

impl Progress {
    pub(crate) fn start(count: u32) -> Self {
        let now = Instant::now();
        Self { started: now, count, sent: 0, told: now }
    }

    /// Waits until the next message is due. A rate of 0 is no rate.
    pub(crate) async fn pace(&self, rate: u32) {
        if let Some(due) = Duration::from_secs(self.sent.into()).checked_div(rate) {
            tokio::time::sleep(due.saturating_sub(self.started.elapsed())).await;
        }
    }

    pub(crate) fn sent(&mut self) {
        self.sent += 1;
        if self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            eprintln!("published {} of {}", self.sent, self.count);
        }
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
