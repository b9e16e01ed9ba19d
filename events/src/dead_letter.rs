//! Dead letters: what was given up, with its reason and history.

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    headers::Headers,
    id::is_unprintable,
    origin::{BrokerKind, Origin},
    reason::Reason,
};

/// Longest text of the last error, in bytes.
const ERROR_MAX_BYTES: usize = 1024;

/// Most bytes of original headers in a dead letter whose payload is left where it came from.
const REFERENCE_HEADERS_MAX_BYTES: usize = 2048;

/// Marks an original header whose name belongs to the broker or to us.
const ORIGINAL: &str = "millrace-original-";

/// The namespace of dead-letter ids. Do not change: the same event must give the same id.
const ID_NAMESPACE: Uuid = Uuid::from_u128(0x6d69_6c6c_7261_6365_8000_6465_6164_0001);

/// An event that was given up: its original bytes and headers, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeadLetter {
    /// The same for the same event of the same consumer, so that a crash cannot make two of one.
    pub id: String,
    /// Why it was given up.
    pub reason: Reason,
    /// The last error, at most 1 KiB.
    pub error: String,
    /// Attempts that were started.
    pub attempts: u32,
    /// When it failed for the first time.
    pub first_failure: Timestamp,
    /// When it failed for the last time.
    pub last_failure: Timestamp,
    /// Where it came from.
    pub origin: Origin,
    /// Who gave it up: `namespace/name`.
    pub consumer: String,
    /// How often it has been put back.
    pub replays: u32,
    /// The key of its record, on brokers that have one.
    pub key: Option<Bytes>,
    /// Its headers, as received.
    pub headers: Headers,
    /// Its payload, as received.
    pub payload: Bytes,
}

/// A message that is not a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// A header is missing, or its value is not what it must be.
    #[error("the header {0:?} is missing or wrong")]
    Header(&'static str),
}

impl DeadLetter {
    /// The id of the dead letter of a message. It depends on the consumer, on where the message comes from, on its
    /// content (a stream that was made anew counts from 1 again, and what it then holds is something else), and on how
    /// often it was put back.
    pub fn id_for(consumer: &str, origin: &Origin, payload: &[u8], replays: u32) -> String {
        // An id from before replays were counted stays what it is.
        let again = if replays == 0 { String::new() } else { format!("\0{replays}") };
        let name = format!("{consumer}\0{origin}\0{}{again}", sha256(payload));
        Uuid::new_v5(&ID_NAMESPACE, name.as_bytes()).to_string()
    }

    /// The message to publish: the original payload and headers, and ours. Original headers whose names belong to the
    /// broker or to us are kept under `millrace-original-`.
    pub fn encode(&self) -> (Headers, Bytes) {
        let mut headers = self.control_headers();
        for (name, value) in self.headers.iter() {
            headers.push(if is_reserved(name) { format!("{ORIGINAL}{name}") } else { name.to_owned() }, value.clone());
        }
        (headers, self.payload.clone())
    }

    /// The message to publish when the whole one is too large for the broker: without the payload, which is still at its
    /// origin, and with its size and SHA-256. Original headers are kept while they are small.
    pub fn encode_by_reference(&self) -> (Headers, Bytes) {
        let small = self.headers.wire_size() <= REFERENCE_HEADERS_MAX_BYTES;
        let original = if small { self.headers.clone() } else { Headers::new() };
        let (mut headers, payload) = Self { headers: original, ..self.clone() }.encode();
        headers.push("millrace-payload-bytes", payload.len().to_string());
        headers.push("millrace-payload-sha256", sha256(&payload));
        (headers, Bytes::new())
    }

    /// The size and SHA-256 of the payload that was left at its origin; nothing where the payload is here.
    pub fn left_behind(headers: &Headers) -> Option<(usize, String)> {
        Some((parse(headers, "millrace-payload-bytes").ok()?, parse(headers, "millrace-payload-sha256").ok()?))
    }

    /// The payload that was left at its origin, if these bytes are it.
    #[must_use]
    pub fn with_payload(self, payload: Bytes, expected_sha256: &str) -> Option<Self> {
        (sha256(&payload) == expected_sha256).then_some(Self { payload, ..self })
    }

    /// Reads a message, with the key of its record where the broker has one, as a dead letter.
    ///
    /// # Errors
    /// Names the header that is missing or wrong.
    pub fn decode(headers: &Headers, key: Option<Bytes>, payload: Bytes) -> Result<Self, DeadLetterError> {
        let mut original = Headers::new();
        for (name, value) in headers.iter() {
            if let Some(name) = name.strip_prefix(ORIGINAL) {
                original.push(name, value.clone());
            } else if !is_reserved(name) {
                original.push(name, value.clone());
            }
        }
        let origin: Origin = parse(headers, "millrace-origin")?;
        Ok(Self {
            id: parse(headers, id_header(origin.broker))?,
            reason: parse(headers, "millrace-reason")?,
            error: parse(headers, "millrace-error")?,
            attempts: parse(headers, "millrace-attempts")?,
            first_failure: parse(headers, "millrace-first-failure")?,
            last_failure: parse(headers, "millrace-last-failure")?,
            origin,
            consumer: parse(headers, "millrace-consumer")?,
            replays: parse(headers, "millrace-replays")?,
            key,
            headers: original,
            payload,
        })
    }

    fn control_headers(&self) -> Headers {
        let mut headers = Headers::new();
        headers.push(id_header(self.origin.broker), self.id.clone());
        headers.push("millrace-reason", self.reason.as_str());
        headers.push("millrace-error", one_line(&self.error));
        headers.push("millrace-attempts", self.attempts.to_string());
        headers.push("millrace-first-failure", self.first_failure.to_string());
        headers.push("millrace-last-failure", self.last_failure.to_string());
        headers.push("millrace-origin", self.origin.to_string());
        headers.push("millrace-consumer", self.consumer.clone());
        headers.push("millrace-replays", self.replays.to_string());
        headers
    }
}

/// The header that holds the id. The one for NATS makes JetStream drop a second copy.
fn id_header(broker: BrokerKind) -> &'static str {
    match broker {
        BrokerKind::JetStream | BrokerKind::Nats => "Nats-Msg-Id",
        BrokerKind::Kafka => "millrace-id",
    }
}

fn parse<T: std::str::FromStr>(headers: &Headers, name: &'static str) -> Result<T, DeadLetterError> {
    headers.get_str(name).and_then(|value| value.parse().ok()).ok_or(DeadLetterError::Header(name))
}

/// Whether a header's name belongs to the broker or to us. A publisher's word in one is not trusted.
fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("nats-") || name.starts_with("millrace-")
}

/// An error as the value of a header: one line that reads as it is written, and not too long.
fn one_line(error: &str) -> String {
    let mut line: String =
        error.chars().map(|character| if is_unprintable(character) { ' ' } else { character }).collect();
    line.truncate(line.floor_char_boundary(ERROR_MAX_BYTES));
    line.trim().to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
