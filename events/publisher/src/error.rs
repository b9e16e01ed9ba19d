//! What can go wrong.

use async_nats::{ConnectErrorKind, jetstream::context::PublishErrorKind};

/// A publisher that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The window is out of its range.
    #[error("the window of {0} events is out of range: use 1 to 4096")]
    Window(usize),
    /// The server refuses, or its address cannot be read. Trying again does not help.
    #[error("failed to connect to {servers}")]
    Refused {
        /// The servers.
        servers: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No server answered for the whole time that was given.
    #[error("no server answered at {servers}")]
    Unreachable {
        /// The servers.
        servers: String,
        /// What the last attempt came to.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An event that is not known to be published. Publishing it again is safe: consumers recognise its id.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No stream takes the subject.
    #[error("no stream covers subject {0:?}: create one, or correct the subject")]
    NoStream(String),
    /// The topic does not exist.
    #[error("topic {0:?} does not exist: create it, or correct the name")]
    NoTopic(String),
    /// The broker did not confirm in time.
    #[error("the broker did not confirm in time")]
    TimedOut,
    /// The connection was lost before the broker confirmed.
    #[error("the connection was lost before the broker confirmed")]
    Disconnected,
    /// A header cannot be sent: its name is not plain ASCII, or its value has a line break or is not UTF-8.
    #[error("the header {0:?} cannot be sent")]
    Header(String),
    /// The broker refuses the event, or the connection is closed.
    #[error("failed to publish")]
    Broker(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The publisher has been closed.
    #[error("the publisher is closed")]
    Closed,
}

impl PublishError {
    /// Whether publishing the same event again may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TimedOut | Self::Disconnected | Self::Broker(_) => true,
            Self::NoStream(_) | Self::NoTopic(_) | Self::Header(_) | Self::Closed => false,
        }
    }

    pub(crate) fn from_jet_stream(error: async_nats::jetstream::context::PublishError, subject: &str) -> Self {
        match error.kind() {
            PublishErrorKind::StreamNotFound => Self::NoStream(subject.to_owned()),
            PublishErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Broker(error.into()),
        }
    }
}

/// Whether a server may answer later where it did not now.
pub(crate) fn may_come_up(error: &async_nats::ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::Dns | ConnectErrorKind::Io | ConnectErrorKind::TimedOut)
}
