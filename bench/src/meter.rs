//! Time, CPU time and memory of this process or another.

use std::{fs, sync::OnceLock, time::Instant};

/// Clock ticks of `/proc/PID/stat` in a second: the same on every Linux.
const TICKS: f64 = 100.0;

/// A section of this process that is measured: from the first message on.
#[derive(Default)]
pub(crate) struct Meter(OnceLock<(Instant, f64)>);

impl Meter {
    /// A message came. The first one starts the clock.
    pub(crate) fn started(&self) {
        self.0.get_or_init(|| (Instant::now(), cpu_seconds("self")));
    }

    /// Seconds and CPU seconds since the first message.
    pub(crate) fn stop(&self) -> (f64, f64) {
        let (at, cpu) = self.0.get().expect("a message came");
        (at.elapsed().as_secs_f64(), cpu_seconds("self") - cpu)
    }
}

/// CPU seconds of a process so far, of user and system.
pub(crate) fn cpu_seconds(pid: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name of the program, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / TICKS
}

/// A figure of `/proc/PID/status` in megabytes: `VmRSS` now, `VmHWM` at most so far.
pub(crate) fn megabytes(pid: &str, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}
