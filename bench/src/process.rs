//! The program itself as a process: its memory, and the time from its start to its first ack.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream;
use millrace_testkit::{
    nats_server::{NatsServer, free_port},
    usage,
};

use crate::{
    job::{Broker, Job, Settings, What},
    loops::jetstream::until_settled,
    orders::{self, Orders},
    report::Report,
    runtime::configuration,
    seed,
};

/// After its first event a process has touched what it needs; so long it is left alone.
const REST: Duration = Duration::from_secs(1);

/// A running program. It ends with this value.
struct Program {
    process: Child,
    port: u16,
}

pub(crate) async fn measure(nats: &NatsServer, program: &Path, rounds: u32, memory: u64, report: &mut Report) {
    at_rest(nats, program, rounds, report).await;
    let orders = Orders { messages: memory, duplicates: false };
    seed::stream(nats, "MEMORY", orders).await;
    for round in 0..=rounds {
        let store = format!("{{memory: {{maxEntries: {memory}}}}}");
        let job = job(nats, "MEMORY", &format!("memory-{round}"), orders, &store);
        let running = Program::start(program, &job);
        let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        settled(&context, &job).await;
        let handled = running.status()["totals"]["handled"].as_u64();
        if handled != Some(memory) {
            report.wrong(format!("the program has handled {handled:?} of {memory} events"));
        }
        let most = megabytes(usage::memory(running.process.id()).peak);
        if round > 0 {
            report.note("M2", "memory of the program at most, claims of 1,000,000 events in memory: MB", most);
        }
    }
}

/// The default store, on a broker that knows the durable and the bucket from the first round.
async fn at_rest(nats: &NatsServer, program: &Path, rounds: u32, report: &mut Report) {
    seed::stream(nats, "REST", Orders { messages: 0, duplicates: false }).await;
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let orders = Orders { messages: 1, duplicates: false };
    let job = job(nats, "REST", "rest", orders, "{jetStreamKV: {bucket: rest}}");
    for round in 0..=rounds {
        let body = orders::body(round.into());
        context.publish("REST.placed", body.into()).await.unwrap().await.unwrap();
        let started = Instant::now();
        let running = Program::start(program, &job);
        settled(&context, &job).await;
        let start = started.elapsed();
        tokio::time::sleep(REST).await;
        let rest = megabytes(usage::memory(running.process.id()).now);
        if round > 0 {
            report.note("S1", "from the start of the program to its first ack: ms", start.as_secs_f64() * 1e3);
            report.note("M1", "memory of the program at rest: MB", rest);
        }
    }
}

fn job(nats: &NatsServer, source: &str, group: &str, orders: Orders, store: &str) -> Job {
    let folder = std::env::temp_dir();
    let settings = Settings { store: store.to_owned(), more: String::new(), consumer: group.to_owned(), folder };
    Job {
        what: What::Runtime(settings),
        broker: Broker::JetStream(nats.url()),
        source: source.to_owned(),
        group: group.to_owned(),
        orders,
        sleep_ms: 0,
    }
}

/// Waits until the durable is there and has nothing left.
async fn settled(context: &jetstream::Context, job: &Job) {
    let stream = context.get_stream(&job.source).await.unwrap();
    loop {
        if let Ok(consumer) = stream.get_consumer(&job.group).await {
            return until_settled(consumer).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Bytes in megabytes.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Program {
    fn start(program: &Path, job: &Job) -> Self {
        let What::Runtime(settings) = &job.what else { panic!("only the runtime is a program") };
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yaml");
        std::fs::write(&config, configuration(job, settings)).unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).args(["--listen", &format!("127.0.0.1:{port}")]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = Self { process, port };
        // It has read its configuration when it listens.
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_micros(200));
        }
        running
    }

    fn status(&self) -> serde_json::Value {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        connection.write_all(b"GET /status HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
