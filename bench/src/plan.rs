//! What is measured, in which order and how often.

use std::path::Path;

use millrace_testkit::{kafka_server::KafkaServer, nats_server::NatsServer, postgres_server::PostgresServer};

use crate::{
    job::{Broker, Job, Run, Settings, What},
    orders::Orders,
    process,
    report::Report,
    seed,
};

/// Partitions of the topic.
const PARTITIONS: i32 = 4;

/// Handlers that sleep at the same time.
const SLEEPERS: u32 = 256;

/// How much is measured.
pub(crate) struct Plan {
    /// Rounds that count. One before them does not.
    rounds: u32,
    /// Messages of a run on JetStream.
    jetstream: u64,
    /// Messages of a run with a handler that sleeps.
    sleep: u64,
    /// Messages of a run with a store that outlives the process.
    stores: u64,
    /// Messages of a run on Kafka.
    kafka: u64,
    /// Messages of the run whose memory is looked at.
    memory: u64,
}

/// One part: its runs, interleaved in each round.
struct Part<'a> {
    rounds: u32,
    broker: Broker,
    source: &'a str,
    orders: Orders,
    sleep_ms: u64,
    next: u32,
}

impl Plan {
    /// As little as gives stable ratios.
    pub(crate) fn smoke() -> Self {
        Self { rounds: 5, jetstream: 100_000, sleep: 40_000, stores: 20_000, kafka: 500_000, memory: 1_000_000 }
    }

    /// For people.
    pub(crate) fn full() -> Self {
        Self { rounds: 9, jetstream: 500_000, sleep: 200_000, stores: 100_000, kafka: 2_000_000, memory: 1_000_000 }
    }

    /// One round with so many times fewer messages.
    pub(crate) fn reduced(self, less: u64) -> Self {
        Self {
            rounds: 1,
            jetstream: self.jetstream / less,
            sleep: self.sleep / less,
            stores: self.stores / less,
            kafka: self.kafka / less,
            memory: self.memory / less,
        }
    }

    pub(crate) async fn measure(&self, runtime: &Path, only: &[String], report: &mut Report) {
        let wanted = |part: &str| only.is_empty() || only.iter().any(|name| part.starts_with(name.as_str()));
        let nats = NatsServer::jetstream().await;
        if wanted("jetstream") || wanted("stores") {
            let orders = Orders { messages: self.jetstream, duplicates: true };
            seed::stream(&nats, "ORDERS", orders).await;
        }
        if wanted("jetstream") {
            self.jetstream(&nats, report);
        }
        if wanted("sleep") {
            let orders = Orders { messages: self.sleep, duplicates: false };
            seed::stream(&nats, "SLEEP", orders).await;
            self.sleep(&nats, orders, report);
        }
        if wanted("stores") {
            let orders = Orders { messages: self.stores, duplicates: true };
            seed::stream(&nats, "STORES", orders).await;
            self.stores(&nats, orders, report).await;
        }
        if wanted("process") {
            process::measure(&nats, runtime, self.rounds, self.memory, report).await;
        }
        drop(nats);
        if wanted("kafka") {
            self.kafka(report).await;
        }
    }

    fn jetstream(&self, nats: &NatsServer, report: &mut Report) {
        let orders = Orders { messages: self.jetstream, duplicates: true };
        let mut part = Part::new(self.rounds, Broker::JetStream(nats.url()), "ORDERS", orders, 0);
        let data = tempfile::tempdir().unwrap();
        let runtime = || What::Runtime(memory(orders, data.path(), ""));
        for round in part.rounds() {
            let raw = part.run("raw", What::Raw, report);
            let hand = part.run("hand-written", What::HandWritten, report);
            let ours = part.run("runtime", runtime(), report);
            if round == 0 {
                continue;
            }
            report.note("J0", "JetStream, raw loop: messages a second", raw.per_second());
            report.note("Jh", "JetStream, hand-written parse and dedupe: of the raw loop", ratio(&hand, &raw));
            report.note("J1", "JetStream, runtime with claims in memory: of the raw loop", ratio(&ours, &raw));
            report.note("J2", "the same: CPU of the client, µs a message", ours.cpu_microseconds());
        }
    }

    fn sleep(&self, nats: &NatsServer, orders: Orders, report: &mut Report) {
        let mut part = Part::new(self.rounds, Broker::JetStream(nats.url()), "SLEEP", orders, 1);
        let data = tempfile::tempdir().unwrap();
        for round in part.rounds() {
            let ideal = part.run("ideal sleep", What::Raw, report);
            let ours =
                part.run("runtime sleep", What::Runtime(memory(orders, data.path(), &workers(SLEEPERS))), report);
            if round == 0 {
                continue;
            }
            report.note("L0", "handler of 1 ms, buffer_unordered(256): messages a second", ideal.per_second());
            report.note("L1", "handler of 1 ms, runtime with 256 workers: of that", ratio(&ours, &ideal));
        }
    }

    async fn stores(&self, nats: &NatsServer, orders: Orders, report: &mut Report) {
        let postgres = PostgresServer::start().await;
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(data.path().join("secrets/store")).unwrap();
        std::fs::write(data.path().join("secrets/store/url"), postgres.url()).unwrap();
        let url = || Broker::JetStream(nats.url());
        let mut whole =
            Part::new(self.rounds, url(), "ORDERS", Orders { messages: self.jetstream, duplicates: true }, 0);
        let mut part = Part::new(self.rounds, url(), "STORES", orders, 0);
        for round in part.rounds() {
            let raw = whole.run("raw beside stores", What::Raw, report);
            for (name, what, store) in [
                (
                    "J5",
                    "claims in a file (fsync), 256 workers: of the raw loop",
                    "{embedded: {volumeClaim: {size: 1Gi}}}",
                ),
                (
                    "J6",
                    "claims in PostgreSQL, 256 workers: of the raw loop",
                    "{postgres: {connectionSecretRef: {name: db}}}",
                ),
                ("J7", "claims in JetStream KV, 256 workers: of the raw loop", "{jetStreamKV: {bucket: claims-ROUND}}"),
            ] {
                // Each run has a store that knows nothing.
                let folder = data.path().join(format!("{name}-{round}"));
                std::fs::create_dir_all(&folder).unwrap();
                std::os::unix::fs::symlink(data.path().join("secrets"), folder.join("secrets")).unwrap();
                let settings = Settings {
                    store: store.replace("ROUND", &round.to_string()),
                    more: workers(SLEEPERS),
                    consumer: format!("{name}-{round}").to_lowercase(),
                    folder,
                };
                let ours = part.run(name, What::Runtime(settings), report);
                if round > 0 {
                    report.note(name, what, ratio(&ours, &raw));
                }
            }
        }
    }

    async fn kafka(&self, report: &mut Report) {
        let kafka = KafkaServer::start().await;
        let orders = Orders { messages: self.kafka, duplicates: true };
        seed::topic(&kafka, "orders", PARTITIONS, orders).await;
        let broker = Broker::Kafka(kafka.bootstrap(), PARTITIONS);
        let mut part = Part::new(self.rounds, broker, "orders", orders, 0);
        let data = tempfile::tempdir().unwrap();
        for round in part.rounds() {
            let raw = part.run("raw poll", What::Raw, report);
            let hand = part.run("hand-written poll", What::HandWritten, report);
            let ours = part.run("runtime on Kafka", What::Runtime(memory(orders, data.path(), "")), report);
            if round == 0 {
                continue;
            }
            report.note("K0", "Kafka, raw poll loop: messages a second", raw.per_second());
            report.note("K1", "Kafka, runtime with claims in memory: of the raw poll loop", ratio(&ours, &raw));
            report.note("K2", "the same: of a hand-written loop that parses and dedupes", ratio(&ours, &hand));
            report.note("K3", "hand-written loop: CPU of the client, µs a message", hand.cpu_microseconds());
            report.note("K4", "Kafka, runtime: CPU of the client, µs a message", ours.cpu_microseconds());
        }
    }
}

impl<'a> Part<'a> {
    fn new(rounds: u32, broker: Broker, source: &'a str, orders: Orders, sleep_ms: u64) -> Self {
        Self { rounds, broker, source, orders, sleep_ms, next: 0 }
    }

    /// The rounds. The first does not count.
    fn rounds(&self) -> std::ops::RangeInclusive<u32> {
        0..=self.rounds
    }

    fn run(&mut self, name: &str, what: What, report: &mut Report) -> Run {
        self.next += 1;
        let group = format!("{}-{}", name.replace(' ', "-"), self.next);
        let job = Job {
            what,
            broker: self.broker.clone(),
            source: self.source.to_owned(),
            group,
            orders: self.orders,
            sleep_ms: self.sleep_ms,
        };
        let run = job.start();
        eprintln!("{name}: {:.0} messages a second, {:.2} µs", run.per_second(), run.cpu_microseconds());
        report.check(name, &run);
        run
    }
}

fn ratio(run: &Run, to: &Run) -> f64 {
    run.per_second() / to.per_second()
}

/// Claims in memory, of which the younger half at least is remembered: all of a run. With fewer, a copy far behind its first would
/// be handled, since the partitions of a topic do not come evenly.
fn memory(orders: Orders, folder: &Path, more: &str) -> Settings {
    let entries = (orders.events() * 2).max(1_000);
    Settings {
        store: format!("{{memory: {{maxEntries: {entries}}}}}"),
        more: more.to_owned(),
        consumer: "bench".to_owned(),
        folder: folder.to_owned(),
    }
}

fn workers(count: u32) -> String {
    format!("workers: {count}")
}
