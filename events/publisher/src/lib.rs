//! Publishing events to NATS JetStream, NATS core and Kafka.

mod connect;
mod error;
mod jetstream;
#[cfg(feature = "kafka")]
mod kafka;
mod nats;
mod options;
mod publisher;

pub use crate::{
    connect::connect_client,
    error::{ConnectError, PublishError},
    options::{Broker, Credentials, PublisherOptions},
    publisher::{EventPublisher, PublishHandle, Published},
};
