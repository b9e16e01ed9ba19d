//! For tests of the operator only: a real API server on a real etcd, without nodes, and pods that are only told of.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    reason = "this is test code: a panic is how it reports, and its tasks end with their test"
)]

pub mod api_server;
pub mod generate;
pub mod operator_process;
pub mod pod;

pub use crate::{api_server::ApiServer, generate::Generator, operator_process::OperatorProcess, pod::FakePod};

use std::time::{Duration, Instant};

/// Asks again and again until there is an answer; after `limit` the test fails.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, limit: Duration, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
