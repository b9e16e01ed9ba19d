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

pub mod audit;
pub mod cluster;
pub mod dead_letters;
pub mod local;
pub mod machine;
pub mod shop;
pub mod table;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

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

/// The dead letters by reason that a runtime's metrics count. Reasons without any are left out.
fn dead_letters(metrics: &str) -> BTreeMap<String, u64> {
    let mut reasons = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix("millrace_dead_letters_total{reason=\"")) {
        let (reason, count) = line.split_once("\"} ").expect("metrics are in the text format");
        let count: u64 = count.parse().expect("counters are whole numbers");
        if count > 0 {
            *reasons.entry(reason.to_owned()).or_default() += count;
        }
    }
    reasons
}
