//! The brokers: a real server of each, and how runtimes and publishers find it.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use millrace_publisher::{Broker as Target, EventPublisher, PublisherOptions};
use millrace_testkit::{kafka_server::KafkaServer, nats_server::NatsServer};

/// Which broker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// NATS JetStream.
    JetStream,
    /// NATS core: at most once.
    Nats,
    /// Kafka.
    Kafka,
}

/// Partitions of a topic.
pub(crate) const PARTITIONS: i32 = 6;

/// The subject, or topic, of the orders that stock is reserved for and a receiver is told of.
pub(crate) const ORDERS: &str = "orders.placed";

/// The subject, or topic, of the orders that e-mails are sent for.
pub(crate) const MAILED: &str = "orders.mailed";

/// A running broker.
pub(crate) enum Broker {
    JetStream(NatsServer),
    Nats(NatsServer),
    Kafka(KafkaServer),
}

impl Kind {
    /// The program of the image that consumers of this broker run in, in the folder of the programs.
    pub fn program(self, programs: &Path) -> PathBuf {
        let name = if self == Self::Kafka { "consumer-runtime-kafka" } else { "consumer-runtime" };
        programs.join(name)
    }

    /// Messages a second, by default. Nothing holds up who publishes to NATS core, so there it is a quarter: what consumers on slow
    /// cores cannot follow would be lost, or waits for longer than a drain may take, and shows nothing but that.
    pub fn rate(self) -> u32 {
        if self == Self::Nats { 150 } else { 600 }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::JetStream => "jetstream",
            Self::Nats => "nats",
            Self::Kafka => "kafka",
        })
    }
}

impl Broker {
    /// A broker with everything that is published and consumed.
    pub(crate) async fn start(kind: Kind) -> Self {
        match kind {
            Kind::JetStream => {
                let server = NatsServer::jetstream().await;
                server.make_streams().await;
                Self::JetStream(server)
            }
            Kind::Nats => Self::Nats(NatsServer::jetstream().await),
            Kind::Kafka => {
                let server = KafkaServer::start().await;
                for topic in [ORDERS, MAILED] {
                    server.create_topic(topic, PARTITIONS, &[]).await;
                }
                server.create_topic("dlq", 1, &[]).await;
                Self::Kafka(server)
            }
        }
    }

    /// The lines of a configuration that say where events come from.
    pub(crate) fn source(&self, subject: &str) -> String {
        let broker = match self {
            Self::JetStream(server) => {
                format!("{{jetStream: {{servers: ['{}'], stream: ORDERS, ackWaitSeconds: 5}}}}", server.url())
            }
            Self::Nats(server) => format!("{{nats: {{servers: ['{}']}}}}", server.url()),
            Self::Kafka(server) => format!("{{kafka: {{bootstrapServers: ['{}']}}}}", server.bootstrap()),
        };
        format!("broker: {broker}\nsubjects: [{subject}]\n")
    }

    /// Where dead letters go.
    pub(crate) fn dead_letters(&self) -> &'static str {
        if matches!(self, Self::Kafka(_)) { "dlq" } else { "dlq.ledger" }
    }

    pub(crate) async fn publisher(&self) -> EventPublisher {
        let (server, target) = match self {
            Self::JetStream(server) => (server.url(), Target::JetStream),
            Self::Nats(server) => (server.url(), Target::Core),
            Self::Kafka(server) => (server.bootstrap(), Target::Kafka),
        };
        let mut options = PublisherOptions::new([server], target);
        if target == Target::Kafka {
            // It publishes again by itself, and once: a broker that starts anew takes some seconds.
            options.confirm_timeout = Duration::from_secs(20);
        }
        EventPublisher::connect(options).await.unwrap()
    }

    /// Kills it, and starts it again a second later.
    pub(crate) async fn crash(&mut self) {
        const DOWN: Duration = Duration::from_secs(1);
        match self {
            Self::JetStream(server) | Self::Nats(server) => {
                server.kill();
                tokio::time::sleep(DOWN).await;
                server.restart().await;
            }
            Self::Kafka(server) => {
                server.kill();
                tokio::time::sleep(DOWN).await;
                server.restart().await;
            }
        }
    }
}
