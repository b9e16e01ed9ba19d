//! Turns a configuration into parts that work together. The only place that names every adapter.

use std::{path::PathBuf, sync::Arc, time::Duration};

use millrace_config::{
    Handler as HandlerConfig, InitialPosition as ConfiguredPosition, JetStream, LogLevel as ConfiguredLevel,
    OnExhausted as ConfiguredOnExhausted, RuntimeConfig, SecretRef, Store, status::DeliveryGuarantee,
};
use millrace_core::{
    backoff::Backoff,
    health::{Health, Part, Trouble},
    key::ConsumerName,
    ports::{DeadLetters, Handler, IdempotencyStore, Reader, Settler},
    rate::Rate,
    retry::RetryPolicy,
    routing::Routing,
    time::Clock,
};
use millrace_engine::{CircuitPolicy, Engine, OnExhausted, Policy, clock::TokioClock, metrics::Metrics};
use millrace_handlers::{AnalyticsHandler, AnalyticsLimits, EmailHandler, EmailOptions, LogHandler, LogLevel};
use millrace_nats::{
    Connection, ConnectionOptions, CoreDeadLetters, CoreOptions, DeadLetterOptions, InitialPosition,
    JetStreamDeadLetters, JetStreamOptions, MountedSecret, TlsOptions, connect, set_up, subscribe,
};
use millrace_store::{BucketOptions, JetStreamKvStore, MemoryStore};
use prometheus_client::registry::Registry;
use tracing::warn;

use crate::report::Reporter;

/// What the `analytics` handler tells apart: some 3 MB of customers, and names that keep `/status` below the 1 MiB that
/// the operator reads.
const ANALYTICS_LIMITS: AnalyticsLimits =
    AnalyticsLimits { customers_max: 100_000, products_max: 1_000, payment_methods_max: 100 };

/// Everything that can be made without a network.
pub(crate) struct Parts {
    config: RuntimeConfig,
    secrets_dir: PathBuf,
    clock: Arc<dyn Clock>,
    handler: Arc<dyn Handler>,
    registry: Arc<Registry>,
    pub(crate) analytics: Option<AnalyticsHandler>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Metrics,
}

/// Where deliveries come from and go back to.
struct Source {
    reader: Box<dyn Reader>,
    settler: Arc<dyn Settler>,
    on_exhausted: OnExhausted,
}

impl Parts {
    /// Makes the parts that a valid configuration names.
    pub(crate) fn new(config: RuntimeConfig, secrets_dir: PathBuf) -> Result<Self, String> {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let (handler, analytics) = handler(&config, &secrets_dir)?;
        if let Some(analytics) = &analytics {
            analytics.register(&mut registry);
        }
        let store = config.store().map(|_| Part::Store);
        let parts = [Part::Broker, Part::Handler].into_iter().chain(store);
        Ok(Self {
            secrets_dir,
            clock: Arc::new(TokioClock::start()),
            handler,
            registry: Arc::new(registry),
            analytics,
            health: Arc::new(Health::starting(parts)),
            metrics,
            config,
        })
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// What broker, store and handler together promise.
    pub(crate) fn delivery_guarantee(&self) -> DeliveryGuarantee {
        if self.config.broker.jet_stream.is_some() {
            DeliveryGuarantee::AtLeastOnce
        } else {
            DeliveryGuarantee::AtMostOnce
        }
    }

    /// Connects everything, with patience, and returns an engine that is ready to run. What does not work meanwhile is
    /// in the health.
    pub(crate) async fn connect(self, reporter: &Reporter) -> Engine {
        let connecting = async {
            let options = self.connection_options();
            let connection = self.until_it_works(Part::Broker, || connect(&options, &self.health)).await;
            let store = self.open_store(&connection).await;
            (self.open_source(&connection, reporter).await, store)
        };
        // Events are taken when the handler works too: none is to fail for a Secret that is not there yet.
        let ((source, store), ()) = tokio::join!(connecting, self.check_handler());
        Engine {
            policy: self.policy(),
            reader: source.reader,
            settler: source.settler,
            store,
            handler: self.handler,
            on_exhausted: source.on_exhausted,
            clock: self.clock,
            health: self.health,
            metrics: self.metrics,
        }
    }

    fn policy(&self) -> Policy {
        let (config, delivery, limits) = (&self.config, &self.config.delivery, &self.config.limits);
        Policy {
            consumer: ConsumerName { namespace: config.consumer.namespace.clone(), name: config.consumer.name.clone() },
            workers: config.workers,
            routing: Routing::new(config.event_types.iter().cloned()),
            retry: RetryPolicy {
                max_attempts: delivery.max_attempts,
                max_age: delivery.max_age_seconds.map(seconds),
                backoff: Backoff {
                    initial: Duration::from_millis(delivery.backoff.initial_milliseconds.into()),
                    max: seconds(delivery.backoff.max_seconds),
                    jitter_percent: delivery.backoff.jitter_percent,
                },
            },
            rate: delivery.rate_limit.as_ref().map(|limit| Rate {
                per_second: limit.events_per_second,
                burst: limit.burst.unwrap_or(limit.events_per_second),
            }),
            circuit: delivery.circuit_breaker.as_ref().map(|breaker| CircuitPolicy {
                consecutive_failures: breaker.consecutive_failures,
                open: seconds(breaker.open_seconds),
            }),
            attempt_timeout: seconds(delivery.attempt_timeout_seconds),
            lease: seconds(config.claim_seconds()),
            drain_timeout: seconds(config.drain_timeout_seconds),
            in_flight_messages: limits.in_flight_messages,
            in_flight_bytes: limits.in_flight_bytes,
            payload_bytes: usize::try_from(limits.payload_bytes).unwrap_or(usize::MAX),
            record_time: seconds(limits.record_seconds),
            reconnect: self.pauses(),
        }
    }

    fn pauses(&self) -> Backoff {
        let max = Duration::from_millis(self.config.limits.reconnect_milliseconds.into());
        Backoff { initial: Duration::from_millis(100).min(max), max, jitter_percent: 20 }
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.config.limits.request_milliseconds.into())
    }

    fn connection_options(&self) -> ConnectionOptions {
        let broker = &self.config.broker;
        let mounted = |SecretRef { name }: &SecretRef, folder: &str| MountedSecret {
            name: name.clone(),
            directory: self.secrets_dir.join(folder),
        };
        ConnectionOptions {
            servers: broker.servers().to_vec(),
            auth: broker.auth_secret_ref().map(|secret| mounted(secret, "broker")),
            tls: broker.tls().map(|tls| TlsOptions {
                ca: tls.ca_secret_ref.as_ref().map(|secret| mounted(secret, "broker-ca")),
                client: tls.client_secret_ref.as_ref().map(|secret| mounted(secret, "broker-client")),
            }),
            name: format!("millrace {}/{}", self.config.consumer.namespace, self.config.consumer.name),
            request_timeout: self.request_timeout(),
            reconnect: self.pauses(),
        }
    }

    async fn open_source(&self, connection: &Connection, reporter: &Reporter) -> Source {
        if let Some(jet_stream) = &self.config.broker.jet_stream {
            let options = self.jet_stream_options(jet_stream);
            let setting_up = || set_up(connection, &options, &self.clock, &self.health);
            let source = self.until_it_works(Part::Broker, setting_up).await;
            reporter.lag_from(source.lag);
            return Source {
                reader: Box::new(source.reader),
                settler: Arc::new(source.settler),
                on_exhausted: self
                    .on_exhausted(|options| Arc::new(JetStreamDeadLetters::new(connection.clone(), options))),
            };
        }
        let options = CoreOptions { subjects: self.config.subjects.clone(), queue_group: self.config.queue_group() };
        let subscribing = || subscribe(connection, &options, &self.clock, &self.health);
        let (reader, settler) = self.until_it_works(Part::Broker, subscribing).await;
        Source {
            reader: Box::new(reader),
            settler: Arc::new(settler),
            on_exhausted: self.on_exhausted(|options| Arc::new(CoreDeadLetters::new(connection.clone(), options))),
        }
    }

    fn dead_letter_options(&self) -> DeadLetterOptions {
        let dead_letter = self.config.delivery.dead_letter.as_ref();
        DeadLetterOptions {
            subject: dead_letter.map(|dead_letter| dead_letter.subject.clone()).unwrap_or_default(),
            max_bytes: dead_letter
                .map_or(0, |dead_letter| usize::try_from(dead_letter.max_payload_bytes).unwrap_or(usize::MAX)),
        }
    }

    fn on_exhausted(&self, dead_letters: impl FnOnce(DeadLetterOptions) -> Arc<dyn DeadLetters>) -> OnExhausted {
        match self.config.delivery.on_exhausted {
            ConfiguredOnExhausted::DeadLetter => OnExhausted::DeadLetter(dead_letters(self.dead_letter_options())),
            ConfiguredOnExhausted::Pause => OnExhausted::Pause,
            ConfiguredOnExhausted::Drop => OnExhausted::Drop,
        }
    }

    fn jet_stream_options(&self, jet_stream: &JetStream) -> JetStreamOptions {
        JetStreamOptions {
            stream: jet_stream.stream.clone(),
            durable: self.config.queue_group(),
            subjects: self.config.subjects.clone(),
            initial_position: match jet_stream.initial_position {
                ConfiguredPosition::All => InitialPosition::All,
                ConfiguredPosition::New => InitialPosition::New,
            },
            ack_wait: seconds(jet_stream.ack_wait_seconds),
            dead_letter_subject: self.config.delivery.dead_letter.as_ref().map(|letter| letter.subject.clone()),
        }
    }

    async fn open_store(&self, connection: &Connection) -> Option<Arc<dyn IdempotencyStore>> {
        let retention = seconds(self.config.idempotency.retention_seconds);
        let store: Arc<dyn IdempotencyStore> = match self.config.store()? {
            Store { jet_stream_kv: Some(bucket), .. } => {
                let options = BucketOptions {
                    bucket: bucket.bucket,
                    replicas: bucket.replicas.into(),
                    retention,
                    request_timeout: self.request_timeout(),
                };
                let opening = || JetStreamKvStore::open(connection.client(), &options, Arc::clone(&self.clock));
                Arc::new(self.until_it_works(Part::Store, opening).await)
            }
            Store { jet_stream_kv: None, memory } => {
                let entries = memory.unwrap_or_default().max_entries;
                let entries = usize::try_from(entries).unwrap_or(usize::MAX);
                Arc::new(MemoryStore::new(Arc::clone(&self.clock), entries, retention))
            }
        };
        self.health.works(Part::Store);
        Some(store)
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
                    tokio::time::sleep(self.pauses().delay(failures, u64::from(failures))).await;
                }
            }
        }
    }
}

fn handler(
    config: &RuntimeConfig,
    secrets_dir: &std::path::Path,
) -> Result<(Arc<dyn Handler>, Option<AnalyticsHandler>), String> {
    match &config.handler {
        HandlerConfig { email: Some(email), .. } => {
            let handler = EmailHandler::new(EmailOptions {
                secret_name: email.smtp_secret_ref.name.clone(),
                secret_directory: secrets_dir.join("smtp"),
                from: email.from.clone(),
                connections_max: usize::try_from(config.workers).unwrap_or(usize::MAX),
                attempt_timeout: seconds(config.delivery.attempt_timeout_seconds),
            });
            Ok((Arc::new(handler.map_err(|error| error.to_string())?), None))
        }
        HandlerConfig { analytics: Some(_), .. } => {
            let handler = AnalyticsHandler::new(ANALYTICS_LIMITS);
            Ok((Arc::new(handler.clone()), Some(handler)))
        }
        HandlerConfig { log, .. } => {
            let level = match log.clone().unwrap_or_default().level {
                ConfiguredLevel::Debug => LogLevel::Debug,
                ConfiguredLevel::Info => LogLevel::Info,
            };
            Ok((Arc::new(LogHandler { level }), None))
        }
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}
