//! Kafka: the source, and dead letters.
//!
//! A thread of its own serves the client: it polls always, so that rebalances are answered whatever the handlers do.
//! Each partition has a queue of its own in the client, its lane, and only the reader takes from it, as much as the
//! engine has room for. A lane that is not read from keeps what was fetched and stops being fetched by itself, so nothing
//! is ever paused: a pause would throw the fetched data away.

mod check;
mod client;
mod close;
mod commit;
mod context;
mod convert;
mod dead_letters;
mod lanes;
mod metrics;
mod monitor;
mod producer;
mod reader;
mod secret;
mod settler;
mod start;
mod trouble;
mod worker;

pub use crate::{
    client::{Auth, ConnectionOptions, Mechanism, TlsOptions},
    dead_letters::{DeadLetterOptions, KafkaDeadLetters},
    metrics::Metrics,
    monitor::LagProbe,
    reader::KafkaReader,
    secret::MountedSecret,
    settler::KafkaSettler,
    start::{InitialPosition, KafkaOptions, KafkaSource, Timing, open},
};
