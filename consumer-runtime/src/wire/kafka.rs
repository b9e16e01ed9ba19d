//! Kafka: the source, how long its topics keep events, and its dead letters.

use std::sync::Arc;

use millrace_config::{Kafka, KafkaPosition, SaslMechanism, SecretRef};
use millrace_core::{health::Part, ports::DeadLetters};
use millrace_engine::{OnExhausted, tasks};
use millrace_kafka::{
    Auth, ConnectionOptions, DeadLetterOptions, InitialPosition, KafkaDeadLetters, KafkaOptions, Mechanism,
    MountedSecret, Timing, TlsOptions, kept, open, open_letters,
};
use tracing::warn;

use crate::{
    report::Reporter,
    wire::{Connected, Letters, Parts},
};

impl Parts {
    pub(super) async fn connect_kafka(&self, kafka: &Kafka, reporter: &Reporter) -> Connected {
        let options = self.kafka_options(kafka);
        // Not a broker's: where claims are kept is asked before any event is taken.
        let store = self.open_store(None).await;
        let opening = || open(&options, &self.clock, &self.health, &self.kafka_metrics);
        let source = self.until_it_works(Part::Broker, opening).await;
        reporter.lag_from(Box::new(source.lag));
        self.compare_topics(options);
        Connected {
            reader: Box::new(source.reader),
            settler: Arc::new(source.settler),
            on_exhausted: self.kafka_exhausted(kafka),
            store,
        }
    }

    pub(super) async fn kafka_letters(&self, kafka: &Kafka) -> Letters {
        let options = self.kafka_options(kafka);
        let (reader, keeper) = self.until_it_works(Part::Broker, || open_letters(&options)).await;
        Letters { reader: Box::new(reader), keeper: Arc::new(keeper) }
    }

    pub(super) fn kafka_exhausted(&self, kafka: &Kafka) -> OnExhausted {
        self.on_exhausted(|subject, max_bytes| {
            let options = DeadLetterOptions { topic: subject, max_bytes, timeout: self.request_timeout() };
            Arc::new(KafkaDeadLetters::new(self.kafka_connection(kafka), options)) as Arc<dyn DeadLetters>
        })
    }

    /// Compares how long the topics keep events with how long done ones are remembered. No event waits for that.
    fn compare_topics(&self, options: KafkaOptions) {
        let Some(remembered) = self.remembered() else { return };
        let health = Arc::clone(&self.health);
        tasks::spawn("retention", async move {
            for (topic, kept) in kept(&options).await {
                match kept {
                    Ok(kept) => remembered.compare(&format!("topic {topic:?}"), kept, &health),
                    Err(problem) => warn!(
                        topic,
                        problem,
                        "how long the topic keeps events is not known: whether idempotency.retentionSeconds is long enough is not checked"
                    ),
                }
            }
        });
    }

    fn kafka_options(&self, kafka: &Kafka) -> KafkaOptions {
        KafkaOptions {
            connection: self.kafka_connection(kafka),
            topics: self.config.subjects.clone(),
            group: self.config.queue_group(),
            initial_position: match kafka.initial_position {
                KafkaPosition::Earliest => InitialPosition::Earliest,
                KafkaPosition::Latest => InitialPosition::Latest,
            },
            dead_letter_topic: self.config.delivery.dead_letter.as_ref().map(|letter| letter.subject.clone()),
            prefetch_bytes: self.config.limits.in_flight_bytes / 2,
            timing: Timing { request: self.request_timeout(), ..Timing::default() },
        }
    }

    fn kafka_connection(&self, kafka: &Kafka) -> ConnectionOptions {
        let mounted = |SecretRef { name }: &SecretRef, folder: &str| MountedSecret {
            name: name.clone(),
            directory: self.folders.secrets.join(folder),
        };
        ConnectionOptions {
            bootstrap_servers: kafka.bootstrap_servers.clone(),
            auth: kafka.auth_secret_ref.as_ref().map(|secret| Auth {
                secret: mounted(secret, "broker"),
                mechanism: match kafka.sasl_mechanism {
                    SaslMechanism::Plain => Mechanism::Plain,
                    SaslMechanism::ScramSha256 => Mechanism::ScramSha256,
                    SaslMechanism::ScramSha512 => Mechanism::ScramSha512,
                },
            }),
            tls: kafka.tls.as_ref().map(|tls| TlsOptions {
                ca: tls.ca_secret_ref.as_ref().map(|secret| mounted(secret, "broker-ca")),
                client: tls.client_secret_ref.as_ref().map(|secret| mounted(secret, "broker-client")),
            }),
            name: format!("millrace-{}-{}", self.config.consumer.namespace, self.config.consumer.name),
        }
    }
}
