//! A producer that says of each record when the brokers have it.

use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{DeliveryResult, OwnedHeaders},
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;
use tracing::debug;

/// What is told when the brokers have spoken on a record.
type Word = Box<oneshot::Sender<KafkaResult<()>>>;

struct Context;

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(facility, said = message, "kafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, said = reason, "kafka");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Word;

    fn delivery(&self, result: &DeliveryResult<'_>, word: Word) {
        // Nobody may be waiting any more.
        drop(word.send(result.as_ref().map(drop).map_err(|(error, _)| error.clone())));
    }
}

/// A producer. Records are confirmed by all replicas in sync, and none is written twice by a repetition of the library.
pub(crate) struct Producer(ThreadedProducer<Context>);

/// A record to be sent.
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    /// `None`: by the key.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) headers: OwnedHeaders,
    pub(crate) payload: &'a [u8],
}

impl Producer {
    /// A producer with the settings of a client, which gives a record up after `limit`.
    pub(crate) fn new(mut config: ClientConfig, limit: std::time::Duration, bytes_max: usize) -> KafkaResult<Self> {
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("message.timeout.ms", limit.as_millis().to_string())
            .set("message.max.bytes", bytes_max.clamp(1_000, 1_000_000_000).to_string())
            .set("queue.buffering.max.messages", "10000")
            // Java's: the same key goes to the same partition whoever publishes.
            .set("partitioner", "murmur2_random");
        ThreadedProducer::from_config_and_context(&config, Context).map(Self)
    }

    /// Sends a record and waits until the brokers have it.
    pub(crate) async fn send(&self, record: Record<'_>) -> KafkaResult<()> {
        let (sender, receiver) = oneshot::channel();
        let mut base = BaseRecord::<[u8], [u8], Word>::with_opaque_to(record.topic, Box::new(sender))
            .payload(record.payload)
            .headers(record.headers);
        (base.key, base.partition) = (record.key, record.partition);
        self.0.send(base).map_err(|(error, _)| error)?;
        receiver.await.unwrap_or(Err(KafkaError::Canceled))
    }
}

/// Whether a record was refused for its size.
pub(crate) fn is_too_large(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize)
    )
}
