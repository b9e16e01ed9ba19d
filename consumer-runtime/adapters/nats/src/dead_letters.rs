//! Publishing dead letters.

use async_nats::{HeaderMap, jetstream};
use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    kept::Kept,
    ports::{DeadLetterError, DeadLetters},
};
use millrace_events::DeadLetter;

use crate::{connection::Connection, convert::headers_to};

/// Where dead letters go.
#[derive(Clone, Debug)]
pub struct DeadLetterOptions {
    /// Their subject.
    pub subject: String,
    /// Largest dead letter in bytes, headers included. The body of a larger one stays where it came from.
    pub max_bytes: usize,
}

/// Dead letters on JetStream: published when a stream has confirmed them.
#[derive(Clone, Debug)]
pub struct JetStreamDeadLetters {
    connection: Connection,
    context: jetstream::Context,
    options: DeadLetterOptions,
    /// How long the stream of the events keeps one that is acked.
    kept: Kept,
}

/// Dead letters on NATS core: published when they have reached the server. Whether anybody hears them is not known.
#[derive(Clone, Debug)]
pub struct CoreDeadLetters {
    connection: Connection,
    options: DeadLetterOptions,
}

impl JetStreamDeadLetters {
    /// Dead letters over `connection`, of events that their stream keeps for so long.
    pub fn new(connection: Connection, options: DeadLetterOptions, kept: Kept) -> Self {
        let mut context = jetstream::new(connection.client.clone());
        context.set_timeout(connection.request_timeout);
        Self { connection, context, options, kept }
    }
}

impl CoreDeadLetters {
    /// Dead letters over `connection`.
    pub fn new(connection: Connection, options: DeadLetterOptions) -> Self {
        Self { connection, options }
    }
}

#[async_trait]
impl DeadLetters for JetStreamDeadLetters {
    async fn publish(&self, dead_letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let subject = self.options.subject.clone();
        let (headers, payload) = match whole(&self.connection, &self.options, dead_letter) {
            Some(whole) => whole,
            // With its ack, which follows, the body would be gone.
            None if self.kept == Kept::UntilAcked => {
                return Err(DeadLetterError(format!(
                    "it is too large for {subject:?}, and the stream of its event deletes what is acked, so the body cannot stay \
                     there: raise max_payload of the server, or give the stream the retention `limits`; the event is put off until then"
                )));
            }
            None => by_reference(dead_letter),
        };
        let ack = self.context.publish_with_headers(subject, headers, payload).await.map_err(failed)?;
        ack.await.map(drop).map_err(failed)
    }
}

#[async_trait]
impl DeadLetters for CoreDeadLetters {
    async fn publish(&self, dead_letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let whole = whole(&self.connection, &self.options, dead_letter);
        let (headers, payload) = whole.unwrap_or_else(|| by_reference(dead_letter));
        let client = &self.connection.client;
        client.publish_with_headers(self.options.subject.clone(), headers, payload).await.map_err(failed)?;
        self.connection.round_trip().await.map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> DeadLetterError {
    DeadLetterError(error.to_string())
}

/// Most bytes of the headers of a message in a stream (`JSStreamHeaderExceedsMaximumErr` of nats-server).
const HEADER_BYTES_MAX: usize = 65_535;

/// The dead letter with its body, where the server takes that.
fn whole(connection: &Connection, options: &DeadLetterOptions, dead_letter: &DeadLetter) -> Option<(HeaderMap, Bytes)> {
    let limit = options.max_bytes.min(connection.client.server_info().max_payload);
    let (headers, payload) = dead_letter.encode();
    let header_bytes = headers.wire_size();
    let fits = header_bytes <= HEADER_BYTES_MAX && header_bytes.saturating_add(payload.len()) <= limit;
    fits.then(|| (headers_to(&headers), payload))
}

/// The dead letter without its body, so that one too large cannot come back for ever.
fn by_reference(dead_letter: &DeadLetter) -> (HeaderMap, Bytes) {
    let (headers, payload) = dead_letter.encode_by_reference();
    (headers_to(&headers), payload)
}
