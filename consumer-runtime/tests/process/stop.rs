//! What ends a runtime, and its exit code.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    time::Duration,
};

use async_nats::jetstream::consumer::PullConsumer;
use futures::StreamExt as _;
use millrace_testkit::{nats_server::NatsServer, signal::Signal, wait::eventually};

use crate::support::{PATIENCE, Runtime, Secret, publish, wait_until_settled};

#[tokio::test]
async fn sigterm_drains_and_exits_with_zero_and_what_is_not_yet_connected_stops_at_once() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let mut runtime = Runtime::start(&server, 30);
    publish(&context, 0..500).await;
    eventually("it is at work", PATIENCE, || runtime.orders() > 0).await;
    runtime.signal(Signal::TERM);
    assert_eq!(runtime.wait().code(), Some(0));

    // What it handed back is there at once: the next one is done long before the ack wait is over.
    let next = Runtime::start(&server, 30);
    wait_until_settled(&context, Duration::from_secs(10)).await;
    assert_eq!(next.total("possibleDuplicates"), 0);
    drop(next);

    drop(server);
    let gone = NatsServer::jetstream().await;
    let mut waiting = Runtime::start(&gone, 30);
    eventually("it says what it lacks", PATIENCE, || {
        waiting.status().is_some_and(|status| status["problems"][0]["reason"] == "StreamNotFound")
    })
    .await;
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.wait().code(), Some(0));
}

#[tokio::test]
async fn what_comes_during_a_drain_is_handed_back_once_and_not_again_and_again() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let mut runtime = Runtime::start(&server, 30);
    publish(&context, 0..10).await;
    eventually("it waits for more", PATIENCE, || runtime.orders() == 10).await;
    runtime.signal(Signal::TERM);
    eventually("it drains", PATIENCE, || runtime.status().is_some_and(|status| status["phase"] == "Draining")).await;

    // They come to what was asked for before. Handed back at once, they would come there again.
    publish(&context, 10..20).await;
    assert_eq!(runtime.wait().code(), Some(0));

    let stream = context.get_stream("ORDERS").await.unwrap();
    let durable: PullConsumer = stream.get_consumer("shop-analytics").await.unwrap();
    let rest = durable.batch().max_messages(10).expires(Duration::from_secs(5)).messages().await.unwrap();
    let rest: Vec<_> = rest.map(Result::unwrap).collect().await;
    let deliveries: Vec<_> = rest.iter().map(|message| message.info().unwrap().delivered).collect();
    assert_eq!(deliveries, [2; 10], "each delivery counts as an attempt where no claim does");
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_drain_and_a_drain_that_its_deadline_cuts_exits_with_one() {
    let mut server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let secret = Secret::for_server(silent_after_content());
    let handler = "{email: {smtpSecretRef: {name: smtp}, from: shop@example.com}}";
    let more = |drain_timeout_seconds: u32, attempt_timeout_seconds: u32| {
        format!(
            "drainTimeoutSeconds: {drain_timeout_seconds}\ndelivery: {{deadLetter: {{subject: dlq.emails}}, \
             attemptTimeoutSeconds: {attempt_timeout_seconds}}}"
        )
    };

    let mut patient = Runtime::with(&server, "emails", 30, handler, &more(30, 30), secret.folder());
    publish(&context, 0..1).await;
    eventually("it is at work", PATIENCE, || patient.in_flight() == 1).await;
    patient.signal(Signal::TERM);
    eventually("it drains", PATIENCE, || patient.status().is_some_and(|status| status["phase"] == "Draining")).await;
    patient.signal(Signal::TERM);
    assert_eq!(patient.wait().code(), Some(143));

    // With a durable of its own: what comes to the other one may still be sent to the process that is gone.
    let mut hurried = Runtime::with(&server, "hurried", 30, handler, &more(3, 2), secret.folder());
    eventually("it is at work", PATIENCE, || hurried.in_flight() == 1).await;
    // What became of the attempt cannot be recorded now, and that is tried for longer than the drain lasts.
    server.kill();
    hurried.signal(Signal::TERM);
    assert_eq!(hurried.wait().code(), Some(1));
}

/// A mail server that greets, takes every command, and never answers to the content of an e-mail. Its port.
fn silent_after_content() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                stream.write_all(b"220 ready\r\n").unwrap();
                for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
                    let is_data = line == "DATA";
                    let answer: &[u8] = if is_data { b"354 go on\r\n" } else { b"250 fine\r\n" };
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                    if is_data {
                        std::thread::park();
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_refused_before_a_port_is_opened() {
    let config = "consumer: {namespace: a, name: b}\nbroker: {}\nsubjects: []\nhandler: {}\n";

    let mut refused = Runtime::of(config, Path::new("/nonexistent"), Path::new("/nonexistent"));

    assert_eq!(refused.wait().code(), Some(78));
}

#[tokio::test]
async fn a_paused_runtime_takes_nothing_says_what_waits_and_the_next_one_goes_on_with_it() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish(&context, 0..10).await;
    let start = |state: &str| {
        let more = format!("delivery: {{deadLetter: {{subject: dlq.analytics}}}}\n{state}");
        Runtime::with(&server, "analytics", 30, "{analytics: {}}", &more, Path::new("/nonexistent"))
    };

    let mut paused = start("runState: Paused");
    eventually("it says what waits", PATIENCE, || {
        let status = paused.status().unwrap_or_default();
        status["phase"] == "Paused" && status["lag"]["pending"] == 10
    })
    .await;
    assert!(paused.is_ready(), "it is as it was asked to be");
    assert_eq!(paused.total("deliveries"), 0);
    paused.signal(Signal::TERM);
    assert_eq!(paused.wait().code(), Some(0));

    let next = start("");
    eventually("the next one has it all", PATIENCE, || next.orders() == 10).await;
    drop(next);

    // Its durable goes when it is asked for, with the same configuration.
    let deleted = paused.command(&["delete-durable", "--within-seconds", "10"]).output().unwrap();
    assert_eq!(deleted.status.code(), Some(0));
    let durable = context.get_stream("ORDERS").await.unwrap().consumer_info("shop-analytics").await;
    assert!(durable.is_err());
    drop(server);
    let failed = paused.command(&["delete-durable", "--within-seconds", "1"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
}
