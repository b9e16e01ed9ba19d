//! Crashes on both sides, and what a restarted server has forgotten.

use std::time::Duration;

use millrace_testkit::{nats_server::NatsServer, wait::eventually};
use serde_json::Value;

use crate::support::{PATIENCE, Runtime, publish, wait_until_settled};

#[tokio::test]
async fn acks_that_a_crashed_server_forgets_cause_no_second_effect() {
    let mut server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let runtime = Runtime::start(&server, 2);
    // A server writes a consumer's state some ten times a second. A crash in between forgets confirmed acks; a few crashes
    // make sure of it.
    let mut published = 0;
    for crash in 0..20 {
        publish(&context, published..published + 300).await;
        published += 300;
        eventually("all are handled", PATIENCE, || runtime.orders() == u64::from(published)).await;
        server.restart().await;
        eventually("it is back", PATIENCE, || {
            runtime.status().is_some_and(|status| status["problems"] == Value::Array(vec![]))
        })
        .await;
        if crash >= 1 && runtime.total("duplicatesSkipped") > 0 {
            break;
        }
    }
    eventually("acks were forgotten", PATIENCE, || runtime.total("duplicatesSkipped") > 0).await;

    assert_eq!(runtime.orders(), u64::from(published), "each order counts once");
    assert_eq!(runtime.total("possibleDuplicates"), 0);
}

#[tokio::test]
async fn a_server_that_is_killed_under_load_is_used_again_within_five_seconds_and_nothing_is_lost() {
    let mut server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let runtime = Runtime::start(&server, 5);
    let publisher = context.clone();
    let load = async move { publish(&publisher, 0..3000).await };
    let crash = async {
        eventually("events flow", PATIENCE, || runtime.orders() > 200).await;
        server.kill();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = runtime.orders();
        server.restart().await;
        eventually("it goes on", Duration::from_secs(5), || runtime.orders() > before).await;
    };
    tokio::join!(load, crash);

    eventually("all are handled", PATIENCE, || runtime.orders() == 3000).await;
}

#[tokio::test]
async fn a_killed_runtime_loses_nothing_and_the_next_one_finishes_its_work() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish(&context, 0..2000).await;
    let mut first = Runtime::start(&server, 2);
    eventually("it is at work", PATIENCE, || first.total("handled") > 100).await;
    first.process.kill().unwrap();
    first.wait();

    let second = Runtime::start(&server, 2);

    wait_until_settled(&context, Duration::from_secs(90)).await;
    // What the first had at work is taken over when its claims end, and counted: the crash window.
    let uncertain = second.total("possibleDuplicates");
    assert!(uncertain <= 16, "{uncertain} events were at work in 16 workers");
}
