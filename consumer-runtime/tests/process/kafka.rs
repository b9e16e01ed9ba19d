//! A runtime on Kafka: crashes, zombies and drains of the process.

use std::{path::Path, time::Duration};

use millrace_events::Headers;
use millrace_testkit::{kafka_server::KafkaServer, sample, signal::Signal, wait::eventually};

use crate::support::{PATIENCE, Runtime};

/// A runtime on `orders`, without claims unless `more` says so: every delivery is handled.
fn start(server: &KafkaServer, more: &str) -> Runtime {
    let text = format!(
        "consumer: {{namespace: shop, name: kafka}}
broker: {{kafka: {{bootstrapServers: ['{}']}}}}
subjects: [orders]
{more}
",
        server.bootstrap()
    );
    Runtime::of(&text, Path::new("/nonexistent"), Path::new("/nonexistent"))
}

const ANALYTICS: &str = "handler: {analytics: {}}
idempotency: {mode: None}
delivery: {deadLetter: {subject: dlq}}";

fn publish(server: &KafkaServer, ids: std::ops::Range<u32>) {
    let publisher = server.publisher();
    for id in ids {
        publisher.send(
            "orders",
            Some(id.to_string().as_bytes()),
            &Headers::new(),
            Some(&sample::order(&id.to_string())),
        );
    }
    publisher.flush();
}

fn committed(server: &KafkaServer) -> i64 {
    server.committed("shop-kafka", "orders", 2).iter().filter_map(|(position, _)| *position).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_on_kafka_survives_crashes_zombies_and_drains() {
    const COUNT: u32 = 2_000;
    let server = KafkaServer::start().await;
    let missing = start(&server, ANALYTICS);
    eventually("it says what it lacks", PATIENCE, || {
        missing.status().is_some_and(|status| status["problems"][0]["reason"] == "TopicNotFound")
    })
    .await;
    server.create_topic("orders", 2, &[]).await;
    server.create_topic("dlq", 1, &[]).await;
    publish(&server, 0..COUNT);
    // It goes on by itself when the topic is there.
    eventually("everything is handled", PATIENCE, || missing.orders() == u64::from(COUNT)).await;
    eventually("all of it is committed", PATIENCE, || committed(&server) == i64::from(COUNT)).await;
    eventually("nothing waits", PATIENCE, || missing.status().is_some_and(|status| status["lag"]["pending"] == 0))
        .await;

    // Crashed and not drained: what is committed is not handled again. Its lanes come free with its session.
    missing.signal(Signal::KILL);
    let publisher = server.publisher();
    publisher.send("orders", None, &Headers::new(), Some(b"not JSON"));
    publisher.flush();
    publish(&server, COUNT..COUNT + 100);
    let mut zombie = start(&server, ANALYTICS);
    eventually("the rest is handled", Duration::from_secs(60), || zombie.orders() == 100).await;

    // One of them was not JSON, and is a dead letter.
    let mut all = i64::from(COUNT) + 101;
    eventually("all of it is committed", PATIENCE, || committed(&server) == all).await;
    assert_eq!(server.read("dlq", 1, 1)[0].headers.get_str("millrace-reason"), Some("Undecodable"));

    // Stopped for longer than its session, it comes back to lanes that are another's, and commits nothing of them.
    zombie.signal(Signal::STOP);
    publish(&server, COUNT + 100..COUNT + 200);
    let mut next = start(&server, ANALYTICS);
    eventually("another takes over", Duration::from_secs(60), || next.orders() == 100).await;
    zombie.signal(Signal::CONT);
    all += 100;
    eventually("all of it is committed", PATIENCE, || committed(&server) == all).await;

    for runtime in [&mut zombie, &mut next] {
        runtime.signal(Signal::TERM);
        assert_eq!(runtime.wait().code(), Some(0));
    }
    assert_eq!(committed(&server), all, "a commit went back");
}
