//! Engines on a real Kafka, with a ledger that shows what is lost and what has its effect twice: members come and go, the
//! broker crashes, drains come under load.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_core::{
    backoff::Backoff,
    health::{Health, Part},
    key::ConsumerName,
    order::Ordering,
    ports::{Handler, IdempotencyStore},
    retry::RetryPolicy,
    routing::Routing,
    time::Clock,
};
use millrace_engine::{Drained, Engine, OnExhausted, Policy, clock::TokioClock, metrics};
use millrace_events::Headers;
use millrace_store::MemoryStore;
use millrace_testkit::{handler::LedgerHandler, kafka_server::KafkaServer, sample, wait::eventually};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::support::{PATIENCE, open_source, options};

/// What all members of a group share.
#[derive(Clone)]
struct Group {
    bootstrap: String,
    name: &'static str,
    clock: Arc<dyn Clock>,
    store: Option<Arc<dyn IdempotencyStore>>,
    ledger: Arc<LedgerHandler>,
    metrics: metrics::Metrics,
}

/// A running member.
struct Member {
    stop: oneshot::Sender<()>,
    running: JoinHandle<Drained>,
}

impl Group {
    fn new(server: &KafkaServer, name: &'static str, claims: bool) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::start());
        let memory = MemoryStore::new(Arc::clone(&clock), 1_000_000, Duration::from_secs(3600));
        Self {
            bootstrap: server.bootstrap(),
            name,
            store: claims.then(|| Arc::new(memory) as Arc<dyn IdempotencyStore>),
            clock,
            ledger: Arc::default(),
            metrics: metrics::Metrics::default(),
        }
    }

    async fn join(&self) -> Member {
        let source = open_source(&options(self.bootstrap.clone(), self.name, self.name)).await.source;
        let pauses =
            Backoff { initial: Duration::from_millis(10), max: Duration::from_millis(500), jitter_percent: 20 };
        let engine = Engine {
            policy: Policy {
                consumer: ConsumerName { namespace: "shop".to_owned(), name: self.name.to_owned() },
                workers: 16,
                routing: Routing::new([]),
                ordering: Ordering::Unordered,
                idempotency_key: None,
                known_for: Duration::from_secs(3600),
                retry: RetryPolicy { max_attempts: 5, max_age: None, backoff: pauses },
                rate: None,
                circuit: None,
                attempt_timeout: Duration::from_secs(20),
                lease: Duration::from_secs(30),
                drain_timeout: Duration::from_secs(20),
                in_flight_messages: 1000,
                in_flight_bytes: 16 * 1024 * 1024,
                payload_bytes: 1024 * 1024,
                record_time: Duration::from_secs(10),
                reconnect: pauses,
            },
            reader: Box::new(source.reader),
            settler: Arc::new(source.settler),
            store: self.store.clone(),
            handler: Arc::clone(&self.ledger) as Arc<dyn Handler>,
            on_exhausted: OnExhausted::Drop,
            clock: Arc::clone(&self.clock),
            health: Arc::new(Health::starting([Part::Broker])),
            metrics: self.metrics.clone(),
            tracing: None,
        };
        let (stop, stopped) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "the test owns the handle")]
        let running = tokio::spawn(engine.run(async move { drop(stopped.await) }));
        Member { stop, running }
    }

    /// How often each event had its effect.
    fn counts(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for id in self.ledger.effects() {
            *counts.entry(id).or_insert(0) += 1;
        }
        counts
    }
}

impl Member {
    async fn leave(self) -> Drained {
        self.stop.send(()).unwrap();
        self.running.await.unwrap()
    }
}

fn publish(server: &KafkaServer, topic: &str, ids: std::ops::Range<u32>) {
    let publisher = server.publisher();
    for id in ids {
        let key = format!("key-{}", id % 50);
        publisher.send(topic, Some(key.as_bytes()), &Headers::new(), Some(&sample::order(&id.to_string())));
    }
    publisher.flush();
}

/// Looks at the commits of a group again and again. The highest of each partition; none may be lower than before.
#[derive(Default)]
struct Commits(Mutex<BTreeMap<usize, i64>>);

impl Commits {
    fn look(&self, server: &KafkaServer, group: &str, partitions: i32) {
        let mut highest = self.0.lock().unwrap();
        for (partition, (position, _)) in server.committed(group, group, partitions).into_iter().enumerate() {
            let before = highest.insert(partition, position.unwrap_or(-1)).unwrap_or(-1);
            assert!(position.unwrap_or(-1) >= before, "partition {partition} went back from {before} to {position:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_every_two_seconds_and_nothing_is_lost_doubled_or_committed_back() {
    const COUNT: u32 = 10_000;
    let server = KafkaServer::start().await;
    server.create_topic("rebalance", 6, &[]).await;
    let group = Group::new(&server, "rebalance", true);
    *group.ledger.delay.lock().unwrap() = Duration::from_millis(20);
    let commits = Commits::default();
    let mut members = vec![group.join().await];

    for round in 0..8 {
        publish(&server, "rebalance", round * COUNT / 8..(round + 1) * COUNT / 8);
        if round % 2 == 0 {
            members.push(group.join().await);
        } else {
            let drained = members.remove(0).leave().await;
            assert!(matches!(drained, Drained::Clean { .. }), "{drained:?}");
        }
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            commits.look(&server, "rebalance", 6);
        }
    }
    eventually("everything is handled", PATIENCE, || group.counts().len() >= COUNT as usize).await;
    for member in members {
        assert!(matches!(member.leave().await, Drained::Clean { .. }));
    }

    commits.look(&server, "rebalance", 6);
    let doubled = group.counts().values().filter(|count| **count > 1).count();
    let committed: i64 =
        server.committed("rebalance", "rebalance", 6).iter().filter_map(|(position, _)| *position).sum();
    assert_eq!((group.counts().len(), doubled, committed), (COUNT as usize, 0, i64::from(COUNT)));
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_drains_under_load_are_clean_and_without_claims_nothing_is_lost_or_doubled() {
    const COUNT: u32 = 6_000;
    let server = KafkaServer::start().await;
    server.create_topic("drains", 4, &[]).await;
    publish(&server, "drains", 0..COUNT);
    let group = Group::new(&server, "drains", false);
    *group.ledger.delay.lock().unwrap() = Duration::from_millis(20);

    for drain in 0..20 {
        let before = group.ledger.effects().len();
        let member = group.join().await;
        eventually("it is at work", PATIENCE, || group.ledger.effects().len() >= (before + 100).min(COUNT as usize))
            .await;
        let drained = member.leave().await;
        assert!(matches!(drained, Drained::Clean { .. }), "drain {drain}: {drained:?}");
    }
    let last = group.join().await;
    eventually("everything is handled", PATIENCE, || group.counts().len() == COUNT as usize).await;
    last.leave().await;

    assert_eq!(group.ledger.effects().len(), COUNT as usize, "some had their effect twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_crashes_again_and_again_costs_nothing() {
    const COUNT: u32 = 6_000;
    let mut server = KafkaServer::start().await;
    server.create_topic("crashes", 4, &[]).await;
    publish(&server, "crashes", 0..COUNT);
    let group = Group::new(&server, "crashes", true);
    *group.ledger.delay.lock().unwrap() = Duration::from_millis(20);
    let members = [group.join().await, group.join().await];

    for crash in 1..=2 {
        eventually("some are handled", PATIENCE, || group.ledger.effects().len() > crash * 500).await;
        server.kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.restart().await;
    }
    eventually("everything is handled", PATIENCE, || group.counts().len() == COUNT as usize).await;
    for member in members {
        assert!(matches!(member.leave().await, Drained::Clean { .. }));
    }

    assert_eq!(group.ledger.effects().len(), COUNT as usize, "some had their effect twice");
}
