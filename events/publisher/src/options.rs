//! How to publish.

use std::time::Duration;

/// How to publish. Start from [`PublisherOptions::new`].
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// URLs of the NATS servers.
    pub servers: Vec<String>,
    /// User and password, `None` for an anonymous connection.
    pub credentials: Option<Credentials>,
    /// Where events go.
    pub broker: Broker,
    /// Most events that are published and not yet confirmed, 1 to 4096. Default 256. Whoever publishes more waits.
    pub window: usize,
    /// The time that the broker has to confirm an event. Default 5 s.
    pub confirm_timeout: Duration,
    /// Whether the event's id goes along as the message id, so that a stream drops a repeated publish within its
    /// duplicate window. Default: it does.
    pub message_id: bool,
}

/// A user and a password.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Where events go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Broker {
    /// To a stream, which confirms each.
    JetStream,
    /// To whoever listens. An event counts as published when the server has read it.
    Core,
}

impl PublisherOptions {
    /// The defaults, for these servers.
    pub fn new(servers: impl IntoIterator<Item = String>, broker: Broker) -> Self {
        Self {
            servers: servers.into_iter().collect(),
            credentials: None,
            broker,
            window: 256,
            confirm_timeout: Duration::from_secs(5),
            message_id: true,
        }
    }
}
