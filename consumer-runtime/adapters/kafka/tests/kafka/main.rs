//! The Kafka source and dead letters on a real Apache Kafka.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

mod dead_letters;
mod ledger;
mod letters;
mod mock;
mod security;
mod source;
mod stall;
mod support;
