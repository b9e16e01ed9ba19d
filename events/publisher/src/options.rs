//! How to publish.

use std::time::Duration;

/// The largest window.
pub(crate) const WINDOW_MAX: u32 = 4096;

/// How to publish. Start from [`PublisherOptions::new`].
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// URLs of the NATS servers; with Kafka the addresses of some brokers, as `host:port`.
    pub servers: Vec<String>,
    /// User and password, `None` for an anonymous connection. With Kafka they are shown by SCRAM-SHA-512.
    pub credentials: Option<Credentials>,
    /// Where events go.
    pub broker: Broker,
    /// Most events that are published and not yet confirmed, 1 to 4096. Default 256. Whoever publishes more waits.
    pub window: usize,
    /// The time in which a server must answer at first. Default 30 s. Credentials that it refuses are refused at once.
    pub connect_timeout: Duration,
    /// The time that the broker has to confirm an event. Default 5 s.
    pub confirm_timeout: Duration,
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
    /// To whoever listens. An event counts as published when the server has read it. To find that out, the user must be
    /// allowed to publish to and subscribe to `_INBOX.>`.
    Core,
    /// To a topic of Kafka, idempotently: an event counts as published when all replicas in sync have it. Its key is the
    /// ordering key of the event.
    #[cfg(feature = "kafka")]
    Kafka,
}

impl PublisherOptions {
    /// The defaults, for these servers.
    pub fn new(servers: impl IntoIterator<Item = String>, broker: Broker) -> Self {
        Self {
            servers: servers.into_iter().collect(),
            credentials: None,
            broker,
            window: 256,
            connect_timeout: Duration::from_secs(30),
            confirm_timeout: Duration::from_secs(5),
        }
    }
}
