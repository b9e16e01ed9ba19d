//! The Millrace operator: turns each `EventConsumer` into a Deployment of the consumer-runtime and says how that goes.
//!
//! One reconcile is a straight line: [`fetch`] (IO) → [`validate`] (pure) → [`build`] (pure) → [`apply`] (IO) →
//! [`status`] (pure, then written when it changed).

pub mod apply;
pub mod build;
pub mod cache;
pub mod caches;
pub mod context;
pub mod controller;
pub mod error;
pub mod fetch;
pub mod fields;
pub mod finalize;
pub mod gate;
pub mod key;
pub mod known;
pub mod lag;
pub mod lease;
mod owner;
pub mod pace;
pub mod packed;
pub mod poll;
pub mod probe;
pub mod queue;
pub mod rbac;
pub mod reference;
pub mod render;
pub mod replay;
pub mod scaling;
pub mod serve;
pub mod status;
pub mod telemetry;
pub mod tell;
pub mod transitions;
pub mod validate;
pub mod wake;
pub mod watch;
pub mod work;
