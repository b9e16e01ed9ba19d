//! For tests only: an in-memory broker, store and handler with fault plans, a manual clock, the contract suites that
//! every adapter passes, and real servers started for a test.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "this is test code: a panic is how it reports"
)]

pub mod broker;
pub mod clock;
pub mod contract;
pub mod faults;
pub mod handler;
pub mod http_sink;
#[cfg(feature = "kafka")]
pub mod kafka_server;
pub mod mailpit;
pub mod nats_server;
pub mod postgres_server;
pub mod redis_server;
pub mod runtime;
pub mod sample;
pub mod signal;
pub mod store;
pub mod usage;
pub mod wait;
