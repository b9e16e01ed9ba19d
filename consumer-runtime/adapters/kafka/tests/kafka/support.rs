//! Sources for tests.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_core::{
    delivery::Delivery,
    health::{Health, Part, Trouble},
    ports::Reader,
    time::Clock,
    window::Budget,
};
use millrace_engine::clock::TokioClock;
use millrace_events::{BrokerKind, DeadLetter, Headers, Origin, Reason};
use millrace_kafka::{ConnectionOptions, InitialPosition, KafkaOptions, KafkaSource, Metrics, Timing, open};

/// The time that something may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn connection(bootstrap: String) -> ConnectionOptions {
    ConnectionOptions { bootstrap_servers: vec![bootstrap], auth: None, tls: None, name: "test".to_owned() }
}

pub(crate) fn options(bootstrap: String, topic: &str, group: &str) -> KafkaOptions {
    KafkaOptions {
        connection: connection(bootstrap),
        topics: vec![topic.to_owned()],
        group: group.to_owned(),
        initial_position: InitialPosition::Earliest,
        dead_letter_topic: None,
        prefetch_bytes: 16 * 1024 * 1024,
        timing: Timing {
            session: Duration::from_secs(6),
            commit_interval: Duration::from_millis(200),
            look: Duration::from_millis(200),
            ..Timing::default()
        },
    }
}

/// A source with what tells about it.
pub(crate) struct Opened {
    pub(crate) source: KafkaSource,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Metrics,
}

pub(crate) async fn try_to_open(options: &KafkaOptions) -> Result<Opened, Trouble> {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::start());
    let health = Arc::new(Health::starting([Part::Broker]));
    let metrics = Metrics::default();
    let source = open(options, &clock, &health, &metrics).await?;
    Ok(Opened { source, health, metrics })
}

pub(crate) async fn open_source(options: &KafkaOptions) -> Opened {
    try_to_open(options).await.unwrap_or_else(|trouble| panic!("{trouble:?}"))
}

/// Reads exactly so many deliveries.
pub(crate) async fn read(reader: &mut dyn Reader, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    let reading = async {
        while deliveries.len() < count {
            let messages = u32::try_from(count - deliveries.len()).unwrap();
            deliveries.extend(reader.next_batch(Budget { messages, bytes: 1_000_000_000 }).await.unwrap());
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await;
    assert!(read.is_ok(), "{} of {count} came", deliveries.len());
    deliveries
}

/// The dead letter of an order in a partition, with a header that is no text.
pub(crate) fn letter(key: &'static str, partition: u32, sequence: u64, payload: impl Into<Bytes>) -> DeadLetter {
    let payload = payload.into();
    let origin = Origin {
        broker: BrokerKind::Kafka,
        stream: None,
        partition: Some(partition),
        subject: "orders".into(),
        sequence: Some(sequence),
    };
    let mut headers = Headers::new();
    headers.push("ce_id", "1");
    headers.push("other", vec![0xff, 0x00]);
    DeadLetter {
        id: DeadLetter::id_for("shop/emails", &origin, &payload, 0),
        reason: Reason::HandlerRejected,
        error: "no".to_owned(),
        attempts: 1,
        first_failure: "2026-01-02T03:04:05Z".parse().unwrap(),
        last_failure: "2026-01-02T03:04:05Z".parse().unwrap(),
        origin,
        consumer: "shop/emails".to_owned(),
        replays: 0,
        key: Some(Bytes::from_static(key.as_bytes())),
        headers,
        payload,
    }
}
