//! Protects what the operator is among others: one of several, with just its rights, on objects that are old, odd or wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

mod lease;
mod mutations;
mod network_policy;
mod restricted;
mod rights;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;
