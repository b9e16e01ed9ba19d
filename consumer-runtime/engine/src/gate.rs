//! A gate that stops the intake while something that every event needs does not work.

use tokio::sync::watch;

/// A gate that stops the intake.
#[derive(Debug)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    /// A gate that is open.
    pub(crate) fn open() -> Self {
        Self(watch::Sender::new(true))
    }

    /// Shuts the gate or opens it again.
    pub(crate) fn set(&self, open: bool) {
        self.0.send_replace(open);
    }

    /// Whether the gate is open.
    pub(crate) fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the gate is open, or shut.
    pub(crate) async fn wait(&self, open: bool) {
        let mut receiver = self.0.subscribe();
        receiver.wait_for(|state| *state == open).await.expect("self holds the sender, so it cannot be gone");
    }
}
