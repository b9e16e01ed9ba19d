//! Events that are given up, where that is not to end in a dead letter.

use std::{path::Path, time::Duration};

use millrace_testkit::{nats_server::NatsServer, wait::eventually};

use crate::support::{PATIENCE, Runtime, publish};

fn runtime(server: &NatsServer, delivery: &str) -> Runtime {
    let delivery = format!("delivery: {delivery}");
    Runtime::with(server, "analytics", 2, "{analytics: {}}", &delivery, Path::new("/nonexistent"))
}

#[tokio::test]
async fn an_event_that_pauses_the_runtime_stays_where_it_is_and_nothing_is_taken_until_a_restart() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let paused = runtime(&server, "{onExhausted: Pause}");
    context.publish("orders.placed", "not json".into()).await.unwrap().await.unwrap();

    eventually("it is told", PATIENCE, || {
        let problem = paused.status().map(|status| status["problems"][0].clone()).unwrap_or_default();
        let message = problem["message"].as_str().unwrap_or_default();
        problem["reason"] == "Paused" && message.contains("ORDERS") && message.contains("Undecodable")
    })
    .await;
    assert!(!paused.is_ready());
    publish(&context, 0..10).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((paused.orders(), paused.total("deliveries")), (0, 1));
    drop(paused);

    // Somebody has looked, and takes it out.
    let stream = context.get_stream("ORDERS").await.unwrap();
    assert_eq!(stream.get_raw_message(1).await.unwrap().payload, "not json");
    stream.delete_message(1).await.unwrap();
    let next = runtime(&server, "{onExhausted: Pause}");
    eventually("it goes on", PATIENCE, || next.orders() == 10).await;
}

#[tokio::test]
async fn an_event_older_than_its_limit_is_dropped_where_that_is_asked_for() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish(&context, 0..3).await;
    tokio::time::sleep(Duration::from_secs(4)).await;

    let runtime = runtime(&server, "{onExhausted: Drop, maxAgeSeconds: 3}");
    eventually("the old ones are dropped", PATIENCE, || runtime.total("dropped") == 3).await;
    publish(&context, 3..5).await;

    eventually("the new ones are handled", PATIENCE, || runtime.orders() == 2).await;
    assert_eq!(runtime.total("dropped"), 3);
}
