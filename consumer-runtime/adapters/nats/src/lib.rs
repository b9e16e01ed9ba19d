//! NATS: the JetStream source, the core source, and dead letters on both.

mod connection;
mod convert;
mod core;
mod credentials;
mod dead_letters;
mod jetstream;
mod secret;
mod tls;

pub use crate::{
    connection::{Connection, ConnectionOptions, connect},
    core::{CoreOptions, CoreReader, CoreSettler, subscribe},
    dead_letters::{CoreDeadLetters, DeadLetterOptions, JetStreamDeadLetters},
    jetstream::{
        delete::delete_durable,
        lag::LagProbe,
        letters::{DeadLetterStream, LettersError, StoredLetter},
        letters_source::{LetterReader, LetterSettler, Selection},
        reader::JetStreamReader,
        settler::JetStreamSettler,
        setup::{InitialPosition, JetStreamOptions, JetStreamSource, Kept, set_up},
    },
    secret::MountedSecret,
    tls::TlsOptions,
};
