//! What every test needs: an engine with everything that it works with.

use std::{sync::Arc, time::Duration};

use millrace_core::{
    backoff::Backoff,
    health::Health,
    key::ConsumerName,
    order::Ordering,
    ports::{Handler, IdempotencyStore, Redelivery, Settler},
    retry::RetryPolicy,
    routing::Routing,
    time::Clock,
};
use millrace_engine::{Drained, Engine, OnExhausted, Policy, Tracing, clock::TokioClock, metrics::Metrics};
use millrace_events::Headers;
use millrace_store::MemoryStore;
use millrace_testkit::{broker::MemoryBroker, handler::LedgerHandler, sample, store::FaultyStore};
use tokio::sync::oneshot;

pub(crate) const ACK_WAIT: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(1_000_000);

/// Everything that an engine under test works with.
pub(crate) struct Bench {
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) broker: MemoryBroker,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) handler: Arc<LedgerHandler>,
    pub(crate) metrics: Metrics,
    pub(crate) health: Arc<Health>,
    pub(crate) on_exhausted: fn(&MemoryBroker) -> OnExhausted,
    pub(crate) tracing: Option<Tracing>,
}

pub(crate) fn consumer() -> ConsumerName {
    ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() }
}

pub(crate) fn policy() -> Policy {
    let pauses = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1), jitter_percent: 0 };
    let backoff = Backoff { initial: Duration::from_millis(500), max: Duration::from_secs(60), jitter_percent: 20 };
    Policy {
        consumer: consumer(),
        workers: 4,
        routing: Routing::default(),
        ordering: Ordering::Unordered,
        idempotency_key: None,
        known_for: RETENTION / 2,
        retry: RetryPolicy { max_attempts: 3, max_age: None, backoff },
        rate: None,
        circuit: None,
        attempt_timeout: Duration::from_secs(20),
        lease: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(25),
        in_flight_messages: 100,
        in_flight_bytes: 1_000_000,
        payload_bytes: 10_000,
        record_time: Duration::from_secs(300),
        reconnect: pauses,
    }
}

impl Bench {
    pub(crate) fn new(redelivery: Redelivery) -> Self {
        let clock = Arc::new(TokioClock::start());
        Self {
            broker: MemoryBroker::new(Arc::clone(&clock) as Arc<dyn Clock>, redelivery),
            store: Self::store(&clock, true),
            handler: Arc::default(),
            metrics: Metrics::default(),
            health: Arc::new(Health::starting([])),
            on_exhausted: |broker| OnExhausted::DeadLetter(Arc::new(broker.clone())),
            tracing: None,
            clock,
        }
    }

    pub(crate) fn jetstream() -> Self {
        Self::new(Redelivery::AfterAckWait(ACK_WAIT))
    }

    /// Its claims end with the process.
    pub(crate) fn with_passing_claims(self) -> Self {
        Self { store: Self::store(&self.clock, false), ..self }
    }

    fn store(clock: &Arc<TokioClock>, is_durable: bool) -> Arc<FaultyStore> {
        let memory = MemoryStore::new(Arc::clone(clock) as Arc<dyn Clock>, 100_000, RETENTION);
        Arc::new(FaultyStore::new(Arc::new(memory), is_durable))
    }

    pub(crate) fn publish(&self, id: &str) -> u64 {
        self.broker.publish(Headers::new(), sample::order(id))
    }

    pub(crate) fn engine(&self, policy: Policy) -> Engine {
        Engine {
            policy,
            reader: Box::new(self.broker.reader()),
            settler: Arc::new(self.broker.clone()) as Arc<dyn Settler>,
            store: Some(Arc::clone(&self.store) as Arc<dyn IdempotencyStore>),
            handler: Arc::clone(&self.handler) as Arc<dyn Handler>,
            on_exhausted: (self.on_exhausted)(&self.broker),
            tracing: self.tracing.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            health: Arc::clone(&self.health),
            metrics: self.metrics.clone(),
        }
    }

    /// Runs an engine until `done`, then drains it.
    pub(crate) async fn run_until(&self, policy: Policy, done: impl Fn(&Self) -> bool) -> Drained {
        let (stop, stopped) = oneshot::channel::<()>();
        let running = self.engine(policy).run(async { stopped.await.unwrap() });
        let watching = async {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
            while !done(self) {
                assert!(tokio::time::Instant::now() < deadline, "not done within an hour: {:?}", self.metrics.totals());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            stop.send(()).unwrap();
        };
        tokio::join!(running, watching).0
    }

    pub(crate) async fn run_until_settled(&self) -> Drained {
        self.run_until(policy(), |bench| bench.broker.is_settled()).await
    }
}

pub(crate) fn clean() -> Drained {
    Drained::Clean { handed_back: 0 }
}
