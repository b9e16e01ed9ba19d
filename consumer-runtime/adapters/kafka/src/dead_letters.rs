//! Dead letters in a Kafka topic.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::ports::{DeadLetterError, DeadLetters};
use millrace_events::{DeadLetter, Headers};
use rdkafka::error::KafkaResult;

use crate::{
    client::ConnectionOptions,
    convert::headers_to,
    producer::{Producer, Record, is_too_large},
};

/// Bytes of a record beside its headers and payload, at most: the frame of a batch with one record.
const FRAME_BYTES: usize = 256;

/// Where dead letters go.
#[derive(Clone, Debug)]
pub struct DeadLetterOptions {
    /// Their topic.
    pub topic: String,
    /// Largest dead letter in bytes, headers included. The body of a larger one stays where it came from.
    pub max_bytes: usize,
    /// The time after which the brokers' word is no longer waited for.
    pub timeout: Duration,
}

/// Dead letters on Kafka: published when all replicas in sync have them. A repetition after a crash has the same id in the
/// header `millrace-id`, and the key is that of the original.
pub struct KafkaDeadLetters {
    connection: ConnectionOptions,
    options: DeadLetterOptions,
    /// Made when it is first needed, and anew when a Secret has changed or it has failed for good.
    producer: Mutex<Option<Made>>,
}

struct Made {
    producer: Arc<Producer>,
    secrets: [u8; 32],
}

impl KafkaDeadLetters {
    /// Dead letters over connections of their own.
    pub fn new(connection: ConnectionOptions, options: DeadLetterOptions) -> Self {
        Self { connection, options, producer: Mutex::default() }
    }

    fn producer(&self) -> Result<Arc<Producer>, DeadLetterError> {
        let secrets = self.connection.fingerprint();
        let mut made = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref().filter(|made| made.secrets == secrets) {
            return Ok(Arc::clone(&made.producer));
        }
        let config = self.connection.client_config().map_err(|trouble| DeadLetterError(trouble.message))?;
        let producer = Producer::new(config, self.options.timeout, self.options.max_bytes.saturating_add(FRAME_BYTES));
        let producer = Arc::new(producer.map_err(|error| DeadLetterError(error.to_string()))?);
        *made = Some(Made { producer: Arc::clone(&producer), secrets });
        Ok(producer)
    }

    async fn send(&self, producer: &Producer, letter: &DeadLetter, message: &(Headers, Bytes)) -> KafkaResult<()> {
        let (headers, payload) = message;
        let record = Record {
            topic: &self.options.topic,
            partition: None,
            key: letter.key.as_deref(),
            headers: headers_to(headers),
            payload,
        };
        producer.send(record).await
    }
}

#[async_trait]
impl DeadLetters for KafkaDeadLetters {
    async fn publish(&self, dead_letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let producer = self.producer()?;
        let whole = dead_letter.encode();
        let fits = whole.0.wire_size().saturating_add(whole.1.len()) <= self.options.max_bytes;
        let sent = if fits { Some(self.send(&producer, dead_letter, &whole).await) } else { None };
        let sent = match sent {
            Some(Err(error)) if is_too_large(&error) => None,
            sent => sent,
        };
        let sent = match sent {
            Some(sent) => sent,
            // A topic may take less than was configured.
            None => self.send(&producer, dead_letter, &dead_letter.encode_by_reference()).await,
        };
        sent.map_err(|error| {
            // A producer that has failed for good does not heal; the next attempt has a new one.
            *self.producer.lock().unwrap_or_else(PoisonError::into_inner) = None;
            DeadLetterError(format!("{}: {error}", self.options.topic))
        })
    }
}
