//! Dead letters: confirmed, with the key of the original, and by reference where the whole is too large.

use std::time::Duration;

use bytes::Bytes;
use millrace_core::ports::DeadLetters as _;
use millrace_events::{BrokerKind, DeadLetter, Headers, Origin, Reason};
use millrace_kafka::{DeadLetterOptions, KafkaDeadLetters};
use millrace_testkit::kafka_server::KafkaServer;

use crate::support::connection;

fn letter(payload: Bytes) -> DeadLetter {
    let origin = Origin {
        broker: BrokerKind::Kafka,
        stream: None,
        partition: Some(2),
        subject: "orders".to_owned(),
        sequence: Some(7),
    };
    let mut headers = Headers::new();
    headers.push("ce_id", "1");
    headers.push("other", vec![0xff, 0x00]);
    DeadLetter {
        id: DeadLetter::id_for("shop/emails", &origin, &payload, 0),
        reason: Reason::Undecodable,
        error: "not JSON".to_owned(),
        attempts: 1,
        first_failure: "2026-01-02T03:04:05Z".parse().unwrap(),
        last_failure: "2026-01-02T03:04:05Z".parse().unwrap(),
        origin,
        consumer: "shop/emails".to_owned(),
        replays: 0,
        key: Some(Bytes::from_static(b"order-1")),
        headers,
        payload,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_confirmed_keeps_its_key_and_fits_the_topic() {
    let mut server = KafkaServer::start().await;
    server.create_topic("dlq", 1, &[]).await;
    server.create_topic("small", 1, &[("max.message.bytes", "20000")]).await;
    let options = |topic: &str| DeadLetterOptions {
        topic: topic.to_owned(),
        max_bytes: 100_000,
        timeout: Duration::from_secs(5),
    };
    let dead_letters = KafkaDeadLetters::new(connection(server.bootstrap()), options("dlq"));

    let whole = letter(Bytes::from_static(b"{\xff"));
    dead_letters.publish(&whole).await.unwrap();
    dead_letters.publish(&letter(Bytes::from(vec![b'x'; 200_000]))).await.unwrap();
    let records = server.read("dlq", 1, 2);
    let read = DeadLetter::decode(&records[0].headers, records[0].key.clone(), records[0].payload.clone().unwrap());
    assert_eq!(read.unwrap(), whole);
    assert_eq!(records[1].headers.get_str("millrace-payload-bytes"), Some("200000"));
    assert_eq!(records[1].key.as_deref(), Some(b"order-1".as_slice()));

    // The topic takes less than was configured.
    let small = KafkaDeadLetters::new(connection(server.bootstrap()), options("small"));
    let incompressible: Vec<u8> =
        (0..50_000_u32).map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    small.publish(&letter(incompressible.into())).await.unwrap();
    assert_eq!(server.read("small", 1, 1)[0].headers.get_str("millrace-payload-bytes"), Some("50000"));

    server.kill();
    let refused = dead_letters.publish(&whole).await.unwrap_err();
    assert!(refused.to_string().contains("dlq"), "{refused}");
    server.restart().await;
    dead_letters.publish(&whole).await.unwrap();
}
