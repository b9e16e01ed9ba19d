//! What the demo and the end-to-end tests share: a cluster, a shop on it, and ways to look at both.
//!
//! Everything goes through the API server, so that it works on every provider.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "this is test code: a panic is how it reports"
)]

pub mod cluster;
pub mod shop;

use std::time::{Duration, Instant};

/// Waits until `condition` gives something, and panics with `what` when it does not within `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(250));
    }
}
