//! Time and CPU time of this process.

use std::{process, sync::OnceLock, time::Instant};

use millrace_testkit::usage::processor_time;

/// A section of this process that is measured: from the first message on.
#[derive(Default)]
pub(crate) struct Meter(OnceLock<(Instant, f64)>);

impl Meter {
    /// A message came. The first one starts the clock.
    pub(crate) fn started(&self) {
        self.0.get_or_init(|| (Instant::now(), cpu_seconds()));
    }

    /// Seconds and CPU seconds since the first message.
    pub(crate) fn stop(&self) -> (f64, f64) {
        let (at, cpu) = self.0.get().expect("a message came");
        (at.elapsed().as_secs_f64(), cpu_seconds() - cpu)
    }
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    processor_time(process::id()).as_secs_f64()
}
