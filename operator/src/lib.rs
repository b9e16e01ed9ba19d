//! The Millrace operator: turns each `EventConsumer` into a Deployment of the consumer-runtime and says how that goes.
//!
//! One reconcile is a straight line: [`fetch`] (IO) → [`validate`] (pure) → [`build`] (pure) → [`apply`] (IO) →
//! [`status`] (pure, then written when it changed).

pub mod apply;
pub mod build;
pub mod context;
pub mod controller;
pub mod error;
pub mod fetch;
pub mod finalize;
pub mod lag;
pub mod pace;
pub mod probe;
pub mod rbac;
pub mod render;
pub mod scaling;
pub mod serve;
pub mod status;
pub mod telemetry;
pub mod transitions;
pub mod validate;
