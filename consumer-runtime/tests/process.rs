//! The runtime as a process against a real nats-server: crashes on both sides, drains, and what it refuses.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream as StdTcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream;
use millrace_testkit::{
    nats_server::{NatsServer, free_port},
    sample,
};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime with the `analytics` handler, whose sums show a repeated effect.
struct Runtime {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Runtime {
    fn start(server: &NatsServer, ack_wait_seconds: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("config.yaml");
        let text = format!(
            "consumer: {{namespace: shop, name: analytics}}
broker: {{jetStream: {{servers: ['{}'], stream: ORDERS, ackWaitSeconds: {ack_wait_seconds}}}}}
subjects: ['orders.>']
handler: {{analytics: {{}}}}
delivery: {{deadLetter: {{subject: dlq.analytics}}}}
",
            server.url()
        );
        std::fs::write(&config, text).unwrap();
        let port = free_port();
        let process = spawn(&config, port);
        Self { process, port, _folder: folder }
    }

    fn status(&self) -> Option<Value> {
        let mut stream = StdTcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn total(&self, name: &str) -> u64 {
        self.status().map_or(0, |status| status["totals"][name].as_u64().unwrap())
    }

    fn orders(&self) -> u64 {
        self.status().map_or(0, |status| status["analytics"]["orders"].as_u64().unwrap())
    }

    fn signal(&self, signal: &str) {
        let killed = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn spawn(config: &Path, port: u16) -> Child {
    Command::new(env!("CARGO_BIN_EXE_consumer-runtime"))
        .arg("--config")
        .arg(config)
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn eventually(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn make_streams(server: &NatsServer) -> jetstream::Context {
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    for (name, subject) in [("ORDERS", "orders.>"), ("DLQ", "dlq.>")] {
        let config = jetstream::stream::Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            ..jetstream::stream::Config::default()
        };
        context.create_stream(config).await.unwrap();
    }
    context
}

/// Publishes orders with the ids of a range, each confirmed; tries again while the server is away.
async fn publish(context: &jetstream::Context, ids: std::ops::Range<u32>) {
    for id in ids {
        loop {
            let sent = context.publish("orders.placed", sample::order(&id.to_string())).await;
            if let Ok(ack) = sent
                && ack.await.is_ok()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Waits until the durable has nothing left.
async fn wait_until_settled(context: &jetstream::Context, patience: Duration) {
    let stream = context.get_stream("ORDERS").await.unwrap();
    let deadline = Instant::now() + patience;
    loop {
        let info = stream.consumer_info("shop-analytics").await.unwrap();
        if (info.num_pending, info.num_ack_pending) == (0, 0) {
            return;
        }
        assert!(Instant::now() < deadline, "{} pending, {} not acked", info.num_pending, info.num_ack_pending);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn acks_that_a_crashed_server_forgets_cause_no_second_effect() {
    let mut server = NatsServer::jetstream().await;
    let context = make_streams(&server).await;
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
    let context = make_streams(&server).await;
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
    let context = make_streams(&server).await;
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

#[tokio::test]
async fn sigterm_drains_and_exits_with_zero_and_what_is_not_yet_connected_stops_at_once() {
    let server = NatsServer::jetstream().await;
    let context = make_streams(&server).await;
    let mut runtime = Runtime::start(&server, 30);
    publish(&context, 0..500).await;
    eventually("it is at work", PATIENCE, || runtime.orders() > 0).await;
    runtime.signal("-TERM");
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
    waiting.signal("-TERM");
    assert_eq!(waiting.wait().code(), Some(0));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_refused_before_a_port_is_opened() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, "consumer: {namespace: a, name: b}\nbroker: {}\nsubjects: []\nhandler: {}\n").unwrap();

    let mut process = spawn(&config, free_port());

    assert_eq!(process.wait().unwrap().code(), Some(78));
}
