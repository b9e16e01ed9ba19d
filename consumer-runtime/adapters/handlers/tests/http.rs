//! The `http` handler against real HTTP servers on loopback, and against some that break off where a real one does not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

#[path = "http/answers.rs"]
mod answers;
#[path = "http/faults.rs"]
mod faults;
#[path = "http/guard.rs"]
mod guard;
#[path = "http/secrets.rs"]
mod secrets;
#[path = "http/support.rs"]
mod support;
#[path = "http/tls.rs"]
mod tls;
