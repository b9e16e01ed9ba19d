//! Dead letters: confirmed, with the key of the original, and by reference where the whole is too large.

use std::time::Duration;

use bytes::Bytes;
use millrace_core::ports::DeadLetters as _;
use millrace_events::{DeadLetter, Reason};
use millrace_kafka::{DeadLetterOptions, KafkaDeadLetters};
use millrace_testkit::kafka_server::KafkaServer;

use crate::support::{connection, letter};

fn undecodable(payload: Bytes) -> DeadLetter {
    DeadLetter { reason: Reason::Undecodable, error: "not JSON".to_owned(), ..letter("order-1", 2, 7, payload) }
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

    let whole = undecodable(Bytes::from_static(b"{\xff"));
    dead_letters.publish(&whole).await.unwrap();
    dead_letters.publish(&undecodable(Bytes::from(vec![b'x'; 200_000]))).await.unwrap();
    let records = server.read("dlq", 1, 2);
    let read = DeadLetter::decode(&records[0].headers, records[0].key.clone(), records[0].payload.clone().unwrap());
    assert_eq!(read.unwrap(), whole);
    assert_eq!(records[1].headers.get_str("millrace-payload-bytes"), Some("200000"));
    assert_eq!(records[1].key.as_deref(), Some(b"order-1".as_slice()));

    // The topic takes less than was configured.
    let small = KafkaDeadLetters::new(connection(server.bootstrap()), options("small"));
    let incompressible: Vec<u8> =
        (0..50_000_u32).map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    small.publish(&undecodable(incompressible.into())).await.unwrap();
    assert_eq!(server.read("small", 1, 1)[0].headers.get_str("millrace-payload-bytes"), Some("50000"));

    server.kill();
    let refused = dead_letters.publish(&whole).await.unwrap_err();
    assert!(refused.to_string().contains("dlq"), "{refused}");
    server.restart().await;
    dead_letters.publish(&whole).await.unwrap();
}
