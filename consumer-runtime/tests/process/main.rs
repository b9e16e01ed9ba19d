//! The runtime as a process against a real nats-server: crashes on both sides, drains, and what it refuses.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

mod bad_input;
mod broker;
mod email;
mod give_up;
mod http;
mod kafka;
mod order;
mod postgres;
mod redrive;
mod redrive_kafka;
mod secrets;
mod stop;
mod stores;
mod support;
mod traces;
mod unreadable;
