//! Protects the delivery rules, on a broker and a store whose faults are planned and with time under control.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

mod circuit;
mod delivery;
mod drain;
mod failure;
mod order;
mod rate;
mod support;
mod trace;
mod transactional;
