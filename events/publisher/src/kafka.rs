//! Publishing to Kafka.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_events::{Event, Headers, ShopEvent};
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext as _,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::{
    error::{ConnectError, PublishError},
    options::PublisherOptions,
    publisher::Published,
};

/// The pause after the client's queue was full.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// The time that one request for metadata waits.
const METADATA_SLICE: Duration = Duration::from_millis(500);

/// The brokers' word on a record.
type Word = Result<i64, KafkaError>;

/// Tells the words on.
struct Words;

impl ClientContext for Words {}

impl ProducerContext for Words {
    type DeliveryOpaque = Box<oneshot::Sender<Word>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let word = result.as_ref().map(rdkafka::Message::offset).map_err(|(error, _)| error.clone());
        // Nobody may be waiting.
        drop(waiting.send(word));
    }
}

/// Topics of Kafka.
#[derive(Clone)]
pub(crate) struct Kafka(Arc<ThreadedProducer<Words>>);

/// A record that has been handed to the client.
pub(crate) struct Unconfirmed {
    topic: String,
    word: oneshot::Receiver<Word>,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Kafka")
    }
}

impl Kafka {
    /// Makes a client, and waits until a broker answers. The client makes lost connections again for ever.
    pub(crate) async fn connect(options: &PublisherOptions) -> Result<Self, ConnectError> {
        let servers = options.servers.join(", ");
        let refused = |error: KafkaError| ConnectError::Refused { servers: servers.clone(), source: error.into() };
        let producer = ThreadedProducer::from_config_and_context(&config(options), Words).map_err(refused)?;
        let kafka = Self(Arc::new(producer));
        let deadline = Instant::now() + options.connect_timeout;
        loop {
            let producer = Arc::clone(&kafka.0);
            // The library has no way to ask without blocking.
            let asked =
                tokio::task::spawn_blocking(move || producer.client().fetch_metadata(None, METADATA_SLICE).map(drop));
            match asked.await.unwrap_or(Err(KafkaError::Canceled)) {
                Ok(()) => return Ok(kafka),
                Err(error) if Instant::now() >= deadline => {
                    return Err(ConnectError::Unreachable { servers, source: error.into() });
                }
                Err(_) => sleep(FULL_PAUSE).await,
            }
        }
    }

    pub(crate) async fn send(
        &self,
        topic: String,
        key: Option<&str>,
        headers: &Headers,
        payload: Bytes,
    ) -> Result<Unconfirmed, PublishError> {
        if let Some((name, _)) = headers.iter().find(|(name, _)| name.contains('\0')) {
            return Err(PublishError::Header(name.chars().take(64).collect()));
        }
        let (sender, word) = oneshot::channel();
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value.as_ref()) }));
        let mut record =
            BaseRecord::with_opaque_to(topic.as_str(), Box::new(sender)).headers(headers).payload(payload.as_ref());
        record.key = key.map(str::as_bytes);
        // The caller's time limit ends this.
        while let Err((error, refused)) = self.0.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(failure(error, &topic));
            }
            record = refused;
            sleep(FULL_PAUSE).await;
        }
        Ok(Unconfirmed { topic, word })
    }
}

impl Unconfirmed {
    /// Waits until all replicas in sync have the record.
    pub(crate) async fn confirmed(self) -> Result<Published, PublishError> {
        match self.word.await {
            Ok(Ok(offset)) => Ok(Published { sequence: u64::try_from(offset).ok(), duplicate: false }),
            Ok(Err(error)) => Err(failure(error, &self.topic)),
            Err(_) => Err(PublishError::Closed),
        }
    }
}

/// What keeps events in order: the extension `partitionkey`, else the order of a shop's event.
pub(crate) fn ordering_key(event: &Event) -> Option<String> {
    let extension = event.extensions.get("partitionkey").cloned();
    extension.or_else(|| ShopEvent::from_event(event).ok().map(|shop_event| shop_event.order_id().to_owned()))
}

fn config(options: &PublisherOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", options.servers.join(","))
        .set("client.id", "millrace publisher")
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "2")
        .set("message.timeout.ms", options.confirm_timeout.as_millis().max(10).to_string())
        // A topic that does not exist is said to at once, unless it is just being made.
        .set("topic.metadata.propagation.max.ms", "1000")
        .set("reconnect.backoff.max.ms", "1000")
        // The same key goes to the same partition as with the Java client.
        .set("partitioner", "murmur2_random");
    if let Some(credentials) = &options.credentials {
        config
            .set("security.protocol", "sasl_plaintext")
            .set("sasl.mechanism", "SCRAM-SHA-512")
            .set("sasl.username", &credentials.username)
            .set("sasl.password", &credentials.password);
    }
    config
}

fn failure(error: KafkaError, topic: &str) -> PublishError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            PublishError::NoTopic(topic.to_owned())
        }
        Some(RDKafkaErrorCode::MessageTimedOut) => PublishError::TimedOut,
        _ => PublishError::Broker(error.into()),
    }
}
