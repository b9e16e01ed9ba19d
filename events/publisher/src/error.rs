//! What can go wrong.

/// A publisher that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The window is out of its range.
    #[error("the window of {0} events is out of range: use 1 to 4096")]
    Window(usize),
    /// The credentials are refused, or the address cannot be read.
    #[error("failed to connect")]
    Connect(#[from] async_nats::ConnectError),
}

/// An event that is not known to be published. Publishing it again is safe: consumers recognise its id.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No stream takes the subject.
    #[error("no stream covers subject {0:?}: create one, or correct the subject")]
    NoStream(String),
    /// The broker did not confirm in time.
    #[error("the broker did not confirm in time")]
    TimedOut,
    /// The broker refuses the event, or the connection is closed.
    #[error("failed to publish")]
    Broker(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The publisher has been closed.
    #[error("the publisher is closed")]
    Closed,
}
