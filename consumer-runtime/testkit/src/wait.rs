//! Waiting for a condition.

use std::time::{Duration, Instant};

/// The time that a server may take to start: one that was killed repairs itself first, and the machine may be busy.
pub const START: Duration = Duration::from_secs(60);

/// How often a condition is looked at. A look may cost a request or two.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `condition` holds, and panics with `what` when it does not within `patience`.
pub async fn until(what: &str, patience: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same for a condition that is looked at without waiting.
pub async fn eventually(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    until(what, patience, async || condition()).await;
}
