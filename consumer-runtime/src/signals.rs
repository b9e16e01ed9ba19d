//! SIGTERM and SIGINT: the first asks for a drain, the second ends the process at once.

use std::io;

use millrace_engine::tasks;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

/// Exit code of a process that was told twice to end: 128 and the number of SIGTERM.
const EXIT_TWICE: i32 = 143;

/// Whether the process has been asked to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns when the process has been asked to stop.
    pub(crate) async fn requested(&self) {
        // The sender lives as long as the process; if it were gone, stopping would be right.
        let _stopped = self.0.clone().wait_for(|stop| *stop).await.is_ok();
    }
}

/// Starts to watch for signals.
pub(crate) fn watch() -> io::Result<Stop> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tasks::spawn("signals", async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send_replace(true) {
                warn!("told twice to stop: ending at once");
                exit_now();
            }
            info!("told to stop");
        }
    });
    Ok(Stop(receiver))
}

#[expect(clippy::exit, reason = "a second signal asks for just this")]
fn exit_now() -> ! {
    std::process::exit(EXIT_TWICE)
}
