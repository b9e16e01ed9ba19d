//! The contract between the operator and the consumer-runtime: the configuration that the one renders and the other
//! reads, and the status report that goes the other way.
//!
//! A leaf: it imports nothing of ours. The blocks that a user writes in an `EventConsumer` ([`Broker`], [`Idempotency`],
//! [`Handler`], [`Delivery`]) are these very types, so a field has one definition, one default and one description.
#![deny(missing_docs)]

mod broker;
mod defaults;
mod delivery;
mod handler;
mod http;
mod idempotency;
mod limits;
mod load;
mod pick;
pub mod problem;
mod ranges;
pub mod replay;
mod runtime;
pub mod status;
mod validate;

pub use broker::{
    Broker, DeletionPolicy, InitialPosition, JetStream, Kafka, KafkaPosition, Nats, SaslMechanism, SecretRef, Tls,
};
pub use delivery::{Backoff, CircuitBreaker, DeadLetter, Delivery, OnExhausted, RateLimit};
pub use handler::{Analytics, AnalyticsStore, Email, Handler, Inventory, Log, LogLevel};
pub use http::{ContentMode, Http, ResponsePolicy, ServiceRef, Signing};
pub use idempotency::{
    Embedded, Idempotency, IdempotencyMode, JetStreamKv, Memory, Postgres, Redis, Store, VolumeClaim,
};
pub use limits::Limits;
pub use load::{LoadError, load};
pub use pick::{MessageKey, Ordering, Pick};
pub use problem::Problem;
pub use ranges::{AddressRanges, InvalidRange};
pub use runtime::{Consumer, RunState, RuntimeConfig};
