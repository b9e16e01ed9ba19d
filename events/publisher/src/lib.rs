//! Publishing events to NATS JetStream and NATS core.

mod error;
mod options;
mod publisher;

pub use crate::{
    error::{ConnectError, PublishError},
    options::{Broker, Credentials, PublisherOptions},
    publisher::{EventPublisher, PublishHandle, Published},
};
