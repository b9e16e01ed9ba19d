//! Signals to processes, sent without the program `kill`, which a bare machine lacks.

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// Sends a signal to a process. False where there is none.
pub fn send(signal: Signal, process: u32) -> bool {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    process.is_some_and(|process| kill_process(process, signal).is_ok())
}
