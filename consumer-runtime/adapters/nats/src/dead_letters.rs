//! Publishing dead letters.

use async_nats::{HeaderMap, jetstream};
use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::ports::{DeadLetterError, DeadLetters};
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
}

/// Dead letters on NATS core: published when they have reached the server. Whether anybody hears them is not known.
#[derive(Clone, Debug)]
pub struct CoreDeadLetters {
    connection: Connection,
    options: DeadLetterOptions,
}

impl JetStreamDeadLetters {
    /// Dead letters over `connection`.
    pub fn new(connection: Connection, options: DeadLetterOptions) -> Self {
        let mut context = jetstream::new(connection.client.clone());
        context.set_timeout(connection.request_timeout);
        Self { connection, context, options }
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
        let (headers, payload) = encode(&self.connection, &self.options, dead_letter);
        let subject = self.options.subject.clone();
        let ack = self.context.publish_with_headers(subject, headers, payload).await.map_err(failed)?;
        ack.await.map(drop).map_err(failed)
    }
}

#[async_trait]
impl DeadLetters for CoreDeadLetters {
    async fn publish(&self, dead_letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let (headers, payload) = encode(&self.connection, &self.options, dead_letter);
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

/// The dead letter as it is sent: within what the server takes, so that one too large cannot come back for ever.
fn encode(connection: &Connection, options: &DeadLetterOptions, dead_letter: &DeadLetter) -> (HeaderMap, Bytes) {
    let limit = options.max_bytes.min(connection.client.server_info().max_payload);
    let (headers, payload) = dead_letter.encode();
    let header_bytes = headers.wire_size();
    if header_bytes <= HEADER_BYTES_MAX && header_bytes.saturating_add(payload.len()) <= limit {
        return (headers_to(&headers), payload);
    }
    let (headers, payload) = dead_letter.encode_by_reference();
    (headers_to(&headers), payload)
}
