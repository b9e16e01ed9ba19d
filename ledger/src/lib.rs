//! The tests that prove the promise of the product, on processes: the runtime as it is shipped, real brokers, a real
//! database, and faults. Their short forms are tests of the runtime; the long ones are programs.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "this is test code: a panic is how it reports"
)]

mod broker;
mod event;
pub mod faults;
mod load;
mod order;
mod outcome;
mod replicas;
mod run;
mod shop;
mod sinks;
mod storm;

pub use crate::{
    broker::Kind,
    outcome::Outcome,
    run::{Plan, run},
    storm::Storm,
};
