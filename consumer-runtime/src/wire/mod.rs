//! Turns a configuration into parts that work together. The only place that names every adapter.

mod handler;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
mod nats;
mod policy;
mod postgres;
mod store;
mod traces;

use std::{sync::Arc, time::Duration};

use millrace_config::{
    AddressRanges, OnExhausted as ConfiguredOnExhausted, RunState, RuntimeConfig, status::DeliveryGuarantee,
};
use millrace_core::{
    backoff::Backoff,
    health::{Health, Part, Trouble},
    letters::{LetterKeeper, LetterReader},
    ports::{DeadLetters, Handler, IdempotencyStore, Reader, Settler},
    time::Clock,
};
use millrace_engine::{Engine, OnExhausted, clock::TokioClock, metrics::Metrics};
use millrace_handlers::{AnalyticsSource, register_analytics};
use millrace_postgres::Database;
use prometheus_client::registry::Registry;
use tracing::warn;

use crate::{args::Folders, report::Reporter, wire::traces::Traces};

/// Everything that can be made without a network.
pub(crate) struct Parts {
    config: RuntimeConfig,
    folders: Folders,
    clock: Arc<dyn Clock>,
    database: Option<Database>,
    handler: Arc<dyn Handler>,
    registry: Arc<Registry>,
    pub(crate) analytics: Option<Arc<dyn AnalyticsSource>>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Option<Traces>,
    #[cfg(feature = "kafka")]
    kafka_metrics: millrace_kafka::Metrics,
}

/// What a broker and a store come to once they are connected.
struct Connected {
    reader: Box<dyn Reader>,
    settler: Arc<dyn Settler>,
    on_exhausted: OnExhausted,
    store: Option<Arc<dyn IdempotencyStore>>,
}

/// The dead letters of a consumer where they are kept.
pub(crate) struct Letters {
    pub(crate) reader: Box<dyn LetterReader>,
    pub(crate) keeper: Arc<dyn LetterKeeper>,
}

/// Parts that are connected and take nothing. Kafka counts the lag of the lanes that a member holds.
pub(crate) struct Paused(#[expect(dead_code, reason = "it is held, and that is all")] Option<Connected>);

impl Parts {
    /// Makes the parts that a valid configuration names.
    pub(crate) fn new(
        config: RuntimeConfig,
        folders: Folders,
        http_allow: &AddressRanges,
        trace_ratio: f64,
    ) -> Result<Self, String> {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::start());
        let database = postgres::database(&config, &folders.secrets);
        let (handler, analytics) = handler::handler(&config, &folders.secrets, http_allow, database.as_ref(), &clock)?;
        if let Some(analytics) = &analytics {
            register_analytics(Arc::clone(analytics), &mut registry);
        }
        #[cfg(feature = "kafka")]
        let kafka_metrics = millrace_kafka::Metrics::default();
        if config.broker.kafka.is_some() {
            #[cfg(feature = "kafka")]
            kafka_metrics.register(&mut registry);
            #[cfg(not(feature = "kafka"))]
            return Err(
                "broker.kafka: this runtime was built without Kafka; use the image consumer-runtime-kafka".to_owned()
            );
        }
        let traces = Traces::start(&policy::policy(&config).consumer, trace_ratio)?;
        let store = config.store().map(|_| Part::Store);
        let parts = [Part::Broker, Part::Handler].into_iter().chain(store);
        Ok(Self {
            folders,
            clock,
            database,
            handler,
            registry: Arc::new(registry),
            analytics,
            health: Arc::new(Health::starting(parts)),
            metrics,
            traces,
            #[cfg(feature = "kafka")]
            kafka_metrics,
            config,
        })
    }

    /// These parts with another handler.
    pub(crate) fn handled_by(self, handler: Arc<dyn Handler>) -> Self {
        Self { handler, ..self }
    }

    /// Who consumes: `namespace/name`.
    pub(crate) fn consumer(&self) -> String {
        policy::policy(&self.config).consumer.to_string()
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// What broker, store and handler together promise.
    pub(crate) fn delivery_guarantee(&self) -> DeliveryGuarantee {
        self.config.delivery_guarantee()
    }

    /// Connects everything, with patience, and returns an engine that is ready to run. What does not work meanwhile is
    /// in the health.
    pub(crate) async fn connect(self, reporter: &Reporter) -> Engine {
        // Events are taken when the handler works too: none is to fail for a Secret that is not there yet.
        let (connected, ()) = tokio::join!(self.connect_broker(reporter), self.check_handler());
        self.engine(connected)
    }

    /// The dead letters of this consumer, once its broker answers.
    pub(crate) async fn letters(&self) -> Letters {
        #[cfg(feature = "kafka")]
        if let Some(kafka) = &self.config.broker.kafka {
            return self.kafka_letters(kafka).await;
        }
        self.nats_letters().await
    }

    /// An engine on another source than the one of the configuration, with everything else from there.
    pub(crate) async fn engine_on(self, reader: Box<dyn Reader>, settler: Arc<dyn Settler>) -> Engine {
        let ((on_exhausted, store), ()) = tokio::join!(self.exhausted_and_store(), self.check_handler());
        self.engine(Connected { reader, settler, on_exhausted, store })
    }

    async fn exhausted_and_store(&self) -> (OnExhausted, Option<Arc<dyn IdempotencyStore>>) {
        #[cfg(feature = "kafka")]
        if let Some(kafka) = &self.config.broker.kafka {
            return (self.kafka_exhausted(kafka), self.open_store(None).await);
        }
        self.nats_store().await
    }

    /// The subject or topic of dead letters.
    fn dead_letter_subject(&self) -> String {
        self.config.delivery.dead_letter.as_ref().map(|letter| letter.subject.clone()).unwrap_or_default()
    }

    /// Whether events are to be taken at all.
    pub(crate) fn is_paused(&self) -> bool {
        self.config.run_state != RunState::Running
    }

    /// Connects everything and takes no event, for as long as what it returns lives.
    pub(crate) async fn connect_paused(&self, reporter: &Reporter) -> Paused {
        // A subscriber of NATS core would be given its share of the events; there is nothing else to connect to.
        let broker = async {
            if self.config.broker.nats.is_some() {
                self.check_nats().await;
                None
            } else {
                Some(self.connect_broker(reporter).await)
            }
        };
        let (connected, ()) = tokio::join!(broker, self.check_handler());
        Paused(connected)
    }

    fn engine(self, connected: Connected) -> Engine {
        Engine {
            policy: policy::policy(&self.config),
            reader: connected.reader,
            settler: connected.settler,
            store: connected.store,
            handler: self.handler,
            on_exhausted: connected.on_exhausted,
            tracing: self.traces.map(|traces| traces.tracing()),
            clock: self.clock,
            health: self.health,
            metrics: self.metrics,
        }
    }

    async fn connect_broker(&self, reporter: &Reporter) -> Connected {
        #[cfg(feature = "kafka")]
        if let Some(kafka) = &self.config.broker.kafka {
            return self.connect_kafka(kafka, reporter).await;
        }
        self.connect_nats(reporter).await
    }

    /// What becomes of an event that is given up. `dead_letters` makes the way to a subject, with the largest size.
    fn on_exhausted(&self, dead_letters: impl FnOnce(String, usize) -> Arc<dyn DeadLetters>) -> OnExhausted {
        let delivery = &self.config.delivery;
        match (delivery.on_exhausted, &delivery.dead_letter) {
            (ConfiguredOnExhausted::DeadLetter, Some(letter)) => {
                let max_bytes = usize::try_from(letter.max_payload_bytes).unwrap_or(usize::MAX);
                OnExhausted::DeadLetter(dead_letters(letter.subject.clone(), max_bytes))
            }
            // The rules of the configuration ask for one.
            (ConfiguredOnExhausted::Pause | ConfiguredOnExhausted::DeadLetter, _) => OnExhausted::Pause,
            (ConfiguredOnExhausted::Drop, _) => OnExhausted::Drop,
        }
    }

    fn request_timeout(&self) -> Duration {
        request_timeout(&self.config)
    }

    async fn check_handler(&self) {
        self.until_it_works(Part::Handler, || self.handler.check()).await;
        self.health.works(Part::Handler);
    }

    /// Tries again and again until it works, and tells the health about each failure.
    async fn until_it_works<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        part: Part,
        attempt: impl Fn() -> F,
    ) -> T {
        let mut failures = 0;
        loop {
            match attempt().await {
                Ok(made) => return made,
                Err(trouble) => {
                    failures += 1;
                    if self.health.fails(part, trouble.clone()) {
                        warn!(?part, reason = ?trouble.reason, message = trouble.message, "not ready");
                    }
                    tokio::time::sleep(pauses(&self.config).delay(failures, u64::from(failures))).await;
                }
            }
        }
    }
}

/// The time that one request to broker or store may take.
fn request_timeout(config: &RuntimeConfig) -> Duration {
    Duration::from_millis(config.limits.request_milliseconds.into())
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// The pauses between two attempts to reach what does not answer.
fn pauses(config: &RuntimeConfig) -> Backoff {
    let max = Duration::from_millis(config.limits.reconnect_milliseconds.into());
    Backoff { initial: Duration::from_millis(100).min(max), max, jitter_percent: 20 }
}
