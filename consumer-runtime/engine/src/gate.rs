//! A gate that stops the intake while something that every event needs does not work.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// A gate that stops the intake.
#[derive(Debug)]
pub(crate) struct Gate {
    state: watch::Sender<bool>,
    /// The same, for those who only look: every event does.
    is_open: AtomicBool,
}

impl Gate {
    /// A gate that is open.
    pub(crate) fn open() -> Self {
        Self { state: watch::Sender::new(true), is_open: AtomicBool::new(true) }
    }

    /// Shuts the gate or opens it again.
    pub(crate) fn set(&self, open: bool) {
        self.state.send_modify(|state| {
            *state = open;
            // Within the lock of the state, so that both end up the same.
            self.is_open.store(open, Ordering::Release);
        });
    }

    /// Whether the gate is open.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Waits until the gate is open, or shut.
    pub(crate) async fn wait(&self, open: bool) {
        if self.is_open() == open {
            return;
        }
        let mut receiver = self.state.subscribe();
        receiver.wait_for(|state| *state == open).await.expect("self holds the sender, so it cannot be gone");
    }
}
