//! The publisher on a real Kafka: what it confirms is there, with the key that keeps its order.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use millrace_events::{BrokerKind, Event, Origin};
use millrace_publisher::{Broker, ConnectError, EventPublisher, PublishError, PublisherOptions};
use millrace_testkit::{kafka_server::KafkaServer, sample};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_is_in_its_topic_with_its_ordering_key_also_over_a_crash() {
    let mut server = KafkaServer::start().await;
    server.create_topic("orders.placed", 3, &[]).await;
    let options = PublisherOptions::new([server.bootstrap()], Broker::Kafka);
    let publisher = EventPublisher::connect(options.clone()).await.unwrap();

    let refused = publisher.publish("nowhere", &sample::event("1")).await;
    assert!(matches!(&refused, Err(PublishError::NoTopic(topic)) if topic == "nowhere"), "{refused:?}");
    let mut chosen = sample::event("0");
    chosen.extensions.insert("partitionkey".to_owned(), "chosen".to_owned());
    publisher.publish("orders.placed", &chosen).await.unwrap();
    let mut handles = Vec::new();
    for id in 1..100 {
        handles.push(publisher.publish_async("orders.placed", &sample::event(&id.to_string())).await.unwrap());
    }
    for handle in handles {
        assert!(handle.confirmed().await.unwrap().sequence.is_some());
    }
    server.kill();
    let away = publisher.publish("orders.placed", &sample::event("away")).await;
    assert!(matches!(&away, Err(error) if error.is_retryable()), "{away:?}");
    server.restart().await;
    while publisher.publish("orders.placed", &sample::event("100")).await.is_err() {}
    publisher.close().await.unwrap();

    let mut partitions: BTreeMap<String, i32> = BTreeMap::new();
    for record in server.read("orders.placed", 3, 101) {
        let origin = Origin {
            broker: BrokerKind::Kafka,
            stream: None,
            partition: None,
            subject: "orders.placed".into(),
            sequence: None,
        };
        let event = Event::decode(&record.headers, &record.payload.unwrap(), &origin).unwrap();
        let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
        let id = event.id.as_str();
        assert_eq!(key, if id == "0" { "chosen".to_owned() } else { format!("order-{id}") });
        assert_eq!(*partitions.entry(key).or_insert(record.partition), record.partition);
    }

    server.kill();
    let options = PublisherOptions { connect_timeout: Duration::from_secs(1), ..options };
    let absent = EventPublisher::connect(options).await;
    assert!(matches!(absent, Err(ConnectError::Unreachable { .. })), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_producer_makes_its_topics_and_publishes_to_them() {
    let server = KafkaServer::start().await;

    let mut producer = tokio::process::Command::new(env!("CARGO_BIN_EXE_producer"));
    producer.args(["--broker", "kafka", "--server", &server.bootstrap(), "--create-streams", "--count", "200"]);
    let ended = producer.stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap();

    assert!(ended.success());
    let topics = ["orders.placed", "orders.shipped", "payments.processed"];
    let counts = topics.map(|topic| usize::try_from(server.ends(topic, 4)).unwrap());
    assert_eq!(counts.iter().sum::<usize>(), 200);
}
