//! Where a message comes from.

use std::{fmt, str::FromStr, sync::Arc};

/// The kind of a broker.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BrokerKind {
    /// NATS JetStream.
    JetStream,
    /// NATS core.
    Nats,
    /// Kafka.
    Kafka,
}

/// Where a message comes from. Shown as `jetstream://ORDERS/orders.placed#42`, `nats://orders.placed` or
/// `kafka://orders.placed/3#42`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Origin {
    /// The kind of its broker.
    pub broker: BrokerKind,
    /// Its stream, where the broker has streams.
    pub stream: Option<Arc<str>>,
    /// Its partition, where the broker has partitions.
    pub partition: Option<u32>,
    /// Its subject; its topic on Kafka.
    pub subject: Arc<str>,
    /// Its place in the stream or partition.
    pub sequence: Option<u64>,
}

/// A text that does not describe an origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not an origin; expected jetstream://STREAM/SUBJECT#SEQUENCE, nats://SUBJECT or kafka://TOPIC/PARTITION#OFFSET"
)]
pub struct InvalidOrigin;

impl Origin {
    /// The CloudEvents source of an event that names none: the stream, or the subject or topic where there is no stream.
    pub(crate) fn source(&self) -> String {
        match (self.broker, &self.stream) {
            (BrokerKind::Kafka, _) => ["kafka://", &*self.subject].concat(),
            (BrokerKind::JetStream | BrokerKind::Nats, Some(stream)) => ["jetstream://", &**stream].concat(),
            (BrokerKind::JetStream | BrokerKind::Nats, None) => ["nats://", &*self.subject].concat(),
        }
    }

    /// The id of an event that names none: its place in the stream, which stays the same at every delivery. The name of
    /// the stream is part of it, because a bare number may well be the id that a publisher chose for another event.
    pub(crate) fn position_id(&self) -> Option<String> {
        let sequence = self.sequence?;
        match (&self.stream, self.partition) {
            (Some(stream), _) => Some(format!("{stream}:{sequence}")),
            (None, Some(partition)) => Some(format!("{}:{partition}:{sequence}", self.subject)),
            (None, None) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.broker {
            BrokerKind::JetStream => {
                let stream = self.stream.as_deref().unwrap_or_default();
                write!(formatter, "jetstream://{stream}/{}", self.subject)?;
            }
            BrokerKind::Nats => return write!(formatter, "nats://{}", self.subject),
            BrokerKind::Kafka => write!(formatter, "kafka://{}/{}", self.subject, self.partition.unwrap_or_default())?,
        }
        self.sequence.map_or(Ok(()), |sequence| write!(formatter, "#{sequence}"))
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidOrigin)?;
        match scheme {
            "nats" => Ok(Self {
                broker: BrokerKind::Nats,
                stream: None,
                partition: None,
                subject: rest.into(),
                sequence: None,
            }),
            "jetstream" => {
                let (stream, rest) = rest.split_once('/').ok_or(InvalidOrigin)?;
                let (subject, sequence) = with_sequence(rest)?;
                Ok(Self {
                    broker: BrokerKind::JetStream,
                    stream: Some(stream.into()),
                    partition: None,
                    subject: subject.into(),
                    sequence,
                })
            }
            "kafka" => {
                let (topic, rest) = rest.rsplit_once('/').ok_or(InvalidOrigin)?;
                let (partition, sequence) = with_sequence(rest)?;
                Ok(Self {
                    broker: BrokerKind::Kafka,
                    stream: None,
                    partition: Some(partition.parse().map_err(|_| InvalidOrigin)?),
                    subject: topic.into(),
                    sequence,
                })
            }
            _ => Err(InvalidOrigin),
        }
    }
}

/// A text with the sequence that may stand after it.
fn with_sequence(text: &str) -> Result<(&str, Option<u64>), InvalidOrigin> {
    match text.rsplit_once('#') {
        Some((text, sequence)) => Ok((text, Some(sequence.parse().map_err(|_| InvalidOrigin)?))),
        None => Ok((text, None)),
    }
}
