//! Kafka: the source, dead letters, and what a redrive needs of them.
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
mod letters;
mod letters_reader;
mod log;
mod metrics;
mod monitor;
mod producer;
mod reader;
mod retention;
mod settler;
mod start;
mod trouble;
mod worker;

pub use millrace_secret::MountedSecret;

pub use crate::{
    client::{Auth, ConnectionOptions, Mechanism, TlsOptions},
    dead_letters::{DeadLetterOptions, KafkaDeadLetters},
    letters::{KafkaLetterKeeper, open_letters},
    letters_reader::KafkaLetterReader,
    metrics::Metrics,
    monitor::LagProbe,
    reader::KafkaReader,
    retention::kept,
    settler::KafkaSettler,
    start::{InitialPosition, KafkaOptions, KafkaSource, Timing, open},
};
