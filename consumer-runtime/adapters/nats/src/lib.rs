//! NATS: the JetStream source, the core source, and dead letters on both.

mod connection;
mod convert;
mod core;
mod credentials;
mod dead_letters;
mod jetstream;
mod tls;

pub use millrace_secret::MountedSecret;

pub use crate::{
    connection::{Connection, ConnectionOptions, connect},
    core::{CoreOptions, CoreReader, CoreSettler, subscribe},
    dead_letters::{CoreDeadLetters, DeadLetterOptions, JetStreamDeadLetters},
    jetstream::{
        delete::delete_durable,
        lag::{LagProbe, observe},
        letters::{DeadLetterStream, StreamLetterReader},
        reader::JetStreamReader,
        settler::JetStreamSettler,
        setup::{InitialPosition, JetStreamOptions, JetStreamSource, set_up},
    },
    tls::TlsOptions,
};
