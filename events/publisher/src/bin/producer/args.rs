//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Publishes a stream of a shop's events: orders, shipments and payments, some twice, some poisonous.
#[derive(Debug, Parser)]
#[command(name = "producer", version)]
pub(crate) struct Args {
    /// URL of the NATS server; with --broker kafka the address of a broker, for example 127.0.0.1:9092.
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    pub(crate) server: String,

    /// Name of the stream that --create-streams creates for the events.
    #[arg(long, default_value = "ORDERS")]
    pub(crate) stream: String,

    /// Messages in all, duplicates and poison included.
    #[arg(long, env = "PRODUCER_COUNT", default_value_t = 1000)]
    pub(crate) count: u32,

    /// Messages a second; 0: as fast as the broker confirms.
    #[arg(long, env = "PRODUCER_RATE", default_value_t = 0)]
    pub(crate) rate: u32,

    /// The same seed gives the same events.
    #[arg(long, env = "PRODUCER_SEED", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Share of messages that are an earlier event once more.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub(crate) duplicates_percent: u32,

    /// Messages that no consumer can handle, of five kinds in turn.
    #[arg(long, default_value_t = 0)]
    pub(crate) poison: u32,

    /// Most messages published and not yet confirmed, 1 to 4096.
    #[arg(long, default_value_t = 256)]
    pub(crate) window: usize,

    /// Creates the streams where they do not exist: that of --stream for orders.> and payments.>, DLQ for dlq.>. With Kafka:
    /// the topics orders.placed, orders.shipped and payments.processed, of four partitions each, and dlq.
    #[arg(long, conflicts_with = "core")]
    pub(crate) create_streams: bool,

    /// Publishes to NATS core instead of JetStream.
    #[arg(long, conflicts_with = "broker")]
    pub(crate) core: bool,

    /// Where events go.
    #[arg(long, value_enum, default_value_t = To::JetStream)]
    pub(crate) broker: To,

    /// User, where the server wants one.
    #[arg(long, env = "NATS_USER", requires = "password")]
    pub(crate) user: Option<String>,

    /// Password, where the server wants one.
    #[arg(long, env = "NATS_PASSWORD", requires = "user")]
    pub(crate) password: Option<String>,

    /// Writes the id and the type of every unique valid event to this file, one event a line.
    #[arg(long)]
    pub(crate) ids: Option<PathBuf>,

    /// Writes the summary as JSON to this file.
    #[arg(long)]
    pub(crate) summary: Option<PathBuf>,

    /// Prints the summary as JSON on the last but one line, for whoever reads the output from afar.
    #[arg(long)]
    pub(crate) summary_json: bool,
}

/// Where events go.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum To {
    /// To a stream of JetStream.
    #[value(name = "jetstream")]
    JetStream,
    /// To topics of Kafka.
    #[cfg(feature = "kafka")]
    Kafka,
}
