//! The tests that prove the operator: thousands of consumers, and faults at every step. The API server and its etcd are
//! real; nodes there are none.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "this is test code: a panic is how it reports"
)]

pub mod consumers;
pub mod faults;
pub mod requests;
pub mod scale;
