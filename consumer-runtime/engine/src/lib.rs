//! The orchestration of the consumer-runtime: the line that every message takes, over the ports of `millrace-core`.
//!
//! It knows neither broker nor store nor handler by name; it asks what they can do.

mod attempt;
mod circuit;
mod claim;
pub mod clock;
mod figures;
mod finished;
mod gate;
mod give_up;
mod handler_watch;
mod intake;
mod keepalive;
mod line;
pub mod metrics;
mod pace;
mod policy;
mod record;
mod retry_queue;
mod run;
#[cfg(test)]
mod samples;
mod settle;
mod shared;
pub mod tasks;
mod traced;
mod work;

pub use circuit::CircuitPolicy;
pub use give_up::OnExhausted;
pub use policy::Policy;
pub use run::{Drained, Engine};
pub use traced::Tracing;
