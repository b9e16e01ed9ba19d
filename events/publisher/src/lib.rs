//! Publishing events to NATS JetStream and NATS core.

mod connect;
mod error;
mod jetstream;
mod nats;
mod options;
mod publisher;

pub use crate::{
    connect::connect_client,
    error::{ConnectError, PublishError},
    options::{Broker, Credentials, PublisherOptions},
    publisher::{EventPublisher, PublishHandle, Published},
};
