//! Where a message comes from.

use std::{fmt, str::FromStr};

/// The kind of a broker.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BrokerKind {
    /// NATS JetStream.
    JetStream,
    /// NATS core.
    Nats,
}

/// Where a message comes from. Shown as `jetstream://ORDERS/orders.placed#42` or `nats://orders.placed`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Origin {
    /// The kind of its broker.
    pub broker: BrokerKind,
    /// Its stream, where the broker has streams.
    pub stream: Option<String>,
    /// Its subject.
    pub subject: String,
    /// Its place in the stream.
    pub sequence: Option<u64>,
}

/// A text that does not describe an origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an origin; expected jetstream://STREAM/SUBJECT#SEQUENCE or nats://SUBJECT")]
pub struct InvalidOrigin;

impl Origin {
    /// The CloudEvents source of an event that names none: the stream, or the subject where there is no stream.
    pub(crate) fn source(&self) -> String {
        match &self.stream {
            Some(stream) => format!("jetstream://{stream}"),
            None => format!("nats://{}", self.subject),
        }
    }

    /// The id of an event that names none: its place in the stream, which stays the same at every delivery. The name of
    /// the stream is part of it, because a bare number may well be the id that a publisher chose for another event.
    pub(crate) fn position_id(&self) -> Option<String> {
        let stream = self.stream.as_deref()?;
        self.sequence.map(|sequence| format!("{stream}:{sequence}"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.broker {
            BrokerKind::JetStream => {
                let stream = self.stream.as_deref().unwrap_or_default();
                write!(formatter, "jetstream://{stream}/{}", self.subject)?;
                self.sequence.map_or(Ok(()), |sequence| write!(formatter, "#{sequence}"))
            }
            BrokerKind::Nats => write!(formatter, "nats://{}", self.subject),
        }
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if let Some(subject) = text.strip_prefix("nats://") {
            return Ok(Self { broker: BrokerKind::Nats, stream: None, subject: subject.to_owned(), sequence: None });
        }
        let rest = text.strip_prefix("jetstream://").ok_or(InvalidOrigin)?;
        let (stream, rest) = rest.split_once('/').ok_or(InvalidOrigin)?;
        let (subject, sequence) = match rest.rsplit_once('#') {
            Some((subject, sequence)) => (subject, Some(sequence.parse().map_err(|_| InvalidOrigin)?)),
            None => (rest, None),
        };
        Ok(Self {
            broker: BrokerKind::JetStream,
            stream: Some(stream.to_owned()),
            subject: subject.to_owned(),
            sequence,
        })
    }
}
