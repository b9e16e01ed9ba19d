//! Messages that the client library cannot read.
//!
//! It gives up its connection over headers that are not UTF-8, or not lines of a name and a value, and the server delivers
//! such a message again and again. So a reader that has lost its connection, and knows of no outage, looks through what
//! the durable has delivered and nobody has settled, by the API, which hands headers on in base64. What it finds goes the
//! way of every event that cannot be decoded.

use std::{str::FromStr as _, time::Duration};

use async_nats::HeaderName;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use millrace_core::{
    delivery::{Delivery, Position, Receipt},
    time::Monotonic,
};
use millrace_events::{BrokerKind, Headers, Origin, UNREADABLE};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::Instant;
use tracing::warn;

use crate::connection::Connection;

/// Most messages of one look. The next one goes on behind them.
const MESSAGES_MAX: u32 = 10_000;

/// Most bytes of one look.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest time of one look: nothing is pulled meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// A second loss within this time is looked into, whoever is connected to.
const SUSPICIOUS_FOR: Duration = Duration::from_secs(600);

/// Watches over a durable.
pub(crate) struct Lookout {
    connection: Connection,
    stream: String,
    durable: String,
    subjects: Vec<String>,
    losses: Losses,
    /// Where the next look goes on, behind what one that was cut has seen.
    behind: u64,
}

/// What is known of lost connections. Pure.
#[derive(Debug, Default)]
struct Losses {
    /// The process of the server that this reader is connected to.
    server: String,
    last: Option<Monotonic>,
}

impl Losses {
    /// There is a new connection to this server. Whether the loss of the one before is to be looked into: a server that
    /// was started anew, or another of the cluster, explains one.
    fn explain(&mut self, server: String, now: Monotonic) -> bool {
        let again = self.last.is_some_and(|last| now.since(last) < SUSPICIOUS_FOR);
        let same = self.server == server;
        self.last = Some(now);
        self.server = server;
        same || again
    }
}

#[derive(Deserialize)]
struct ConsumerInfo {
    delivered: Sequences,
    ack_floor: Sequences,
    num_ack_pending: u64,
}

#[derive(Deserialize)]
struct Sequences {
    stream_seq: u64,
}

#[derive(Deserialize)]
struct Found {
    message: Stored,
}

/// A message as the API gives it.
#[derive(Deserialize)]
struct Stored {
    subject: String,
    seq: u64,
    time: Timestamp,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

/// An answer of the API.
#[derive(Deserialize)]
struct Refused {
    error: Refusal,
}

#[derive(Deserialize)]
struct Refusal {
    err_code: u32,
    description: String,
}

/// The error code of the API for a message that is not there.
const NO_MESSAGE: u32 = 10037;

impl Lookout {
    pub(crate) fn new(connection: Connection, stream: &str, durable: &str, subjects: &[String]) -> Self {
        let server = connection.client.server_info().server_id;
        Self {
            connection,
            stream: stream.to_owned(),
            durable: durable.to_owned(),
            subjects: subjects.to_vec(),
            losses: Losses { server, last: None },
            behind: 0,
        }
    }

    /// There is a new connection. Whether the loss of the one before is to be looked into.
    pub(crate) fn connected_again(&mut self, now: Monotonic) -> bool {
        self.losses.explain(self.connection.client.server_info().server_id, now)
    }

    /// What was delivered, is not settled, and cannot be read. May be dropped and called again.
    pub(crate) async fn look(&mut self, now: Monotonic) -> Result<Vec<Delivery>, String> {
        let info: ConsumerInfo = self
            .ask(&format!("CONSUMER.INFO.{}.{}", self.stream, self.durable), Bytes::new())
            .await?
            .ok_or("the durable is gone")?;
        let mut found = Vec::new();
        if info.num_ack_pending == 0 {
            return Ok(found);
        }
        let first = info.ack_floor.stream_seq.max(self.behind).saturating_add(1);
        let mut room = Room { messages: MESSAGES_MAX, bytes: BYTES_MAX, until: Instant::now() + PATIENCE };
        // Where the look is cut, the next one goes on with what no subject was looked through for.
        let mut seen = info.delivered.stream_seq;
        for subject in &self.subjects {
            let mut from = first;
            while let Some(stored) = self.next(subject, from).await? {
                if stored.seq > info.delivered.stream_seq {
                    break;
                }
                if !room.takes(&stored) {
                    warn!(behind = from, "too much is delivered and not settled to look through it at once");
                    seen = seen.min(from.saturating_sub(1));
                    break;
                }
                from = stored.seq.saturating_add(1);
                found.extend(self.delivery_if_unreadable(stored, now)?);
            }
        }
        self.behind = if seen < info.delivered.stream_seq { seen } else { 0 };
        Ok(found)
    }

    /// The first message of a subject from this sequence on.
    async fn next(&self, subject: &str, from: u64) -> Result<Option<Stored>, String> {
        let request = json!({"seq": from, "next_by_subj": subject}).to_string();
        let found: Option<Found> = self.ask(&format!("STREAM.MSG.GET.{}", self.stream), request.into()).await?;
        Ok(found.map(|found| found.message))
    }

    /// The answer of the API; nothing where there is no such message.
    async fn ask<T: DeserializeOwned>(&self, what: &str, request: Bytes) -> Result<Option<T>, String> {
        let answer = self.connection.client.request(format!("$JS.API.{what}"), request).await;
        let answer = answer.map_err(|error| format!("{what}: {error}"))?.payload;
        match serde_json::from_slice::<Refused>(&answer) {
            Ok(Refused { error }) if error.err_code == NO_MESSAGE => Ok(None),
            Ok(Refused { error }) => Err(format!("{what}: {}", error.description)),
            Err(_) => serde_json::from_slice(&answer).map(Some).map_err(|error| format!("{what}: {error}")),
        }
    }

    fn delivery_if_unreadable(&self, stored: Stored, now: Monotonic) -> Result<Option<Delivery>, String> {
        let not_base64 = |error| format!("message {}: {error}", stored.seq);
        let block = STANDARD.decode(&stored.hdrs).map_err(not_base64)?;
        let Some(objection) = objection(&block) else { return Ok(None) };
        warn!(sequence = stored.seq, objection, "the headers of an event cannot be read");
        let mut headers = Headers::new();
        headers.push(UNREADABLE, stored.hdrs);
        Ok(Some(Delivery {
            position: Position(stored.seq),
            delivered_count: 1,
            receipt: Receipt::Reply(ack_subject(&self.stream, &self.durable, stored.seq).into()),
            lane: 0,
            origin: Origin {
                broker: BrokerKind::JetStream,
                stream: Some(self.stream.as_str().into()),
                partition: None,
                subject: stored.subject.into(),
                sequence: Some(stored.seq),
            },
            headers,
            payload: STANDARD.decode(&stored.data).map_err(not_base64)?.into(),
            key: None,
            published_at: Some(stored.time),
            received_at: now,
        }))
    }
}

/// What a look may still take.
struct Room {
    messages: u32,
    bytes: usize,
    until: Instant,
}

impl Room {
    fn takes(&mut self, stored: &Stored) -> bool {
        let fits = self.messages > 0 && self.bytes > 0 && Instant::now() < self.until;
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(stored.hdrs.len().saturating_add(stored.data.len()));
        fits
    }
}

/// Where a delivery is acked whose reply subject nobody has seen. The server goes by the stream sequence: it has the rest
/// in its own books (`processAckMsg` of nats-server, for explicit acks).
fn ack_subject(stream: &str, durable: &str, sequence: u64) -> String {
    format!("$JS.ACK.{stream}.{durable}.1.{sequence}.1.0.0")
}

/// Why the client library cannot read these headers, as they stand on the wire; nothing where it can. As
/// `Connection::try_read_op` of async-nats has it, which also does not survive a carriage return within a value.
fn objection(block: &[u8]) -> Option<&'static str> {
    if block.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(block) else { return Some("they are not UTF-8") };
    let mut lines = text.lines().peekable();
    let Some(status) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return Some("they do not begin with their version");
    };
    let status = status.trim().split(' ').next().unwrap_or_default();
    if !status.is_empty() && async_nats::StatusCode::from_str(status).is_err() {
        return Some("their status is no number of three digits");
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { return Some("a line of them has no colon") };
        if HeaderName::from_str(name).is_err() {
            return Some("a name of them is not printable ASCII");
        }
        let mut value = value.trim_start().to_owned();
        while let Some(folded) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(folded);
        }
        if value.trim_end().contains('\r') {
            return Some("a value of them has a carriage return");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_looked_into_unless_the_servers_start_explains_it() {
        let at = |seconds| Monotonic(Duration::from_secs(seconds));
        let mut losses = Losses { server: "A".to_owned(), last: None };

        assert!(!losses.explain("B".to_owned(), at(10)), "the server was started anew");
        assert!(losses.explain("B".to_owned(), at(2_000)), "the same server closed the connection, or this side did");
        assert!(!losses.explain("C".to_owned(), at(4_000)), "long after, and started anew");
        assert!(losses.explain("A".to_owned(), at(4_100)), "soon after another loss");
    }

    #[test]
    fn headers_that_are_only_strange_are_read() {
        for lines in
            ["", "\r\n", "a: b\r\n\r\n", "a:\r\nb: c \r\n folded\r\n\r\n", "a: b\nc: d\r\n\r\n", "ce-id: ä\r\n\r\n"]
        {
            for status in ["", " 503", " 404 No Messages"] {
                let block = format!("NATS/1.0{status}\r\n{lines}");
                assert_eq!(objection(block.as_bytes()), None, "{block:?}");
            }
        }
        assert_eq!(objection(b""), None, "there are none");
    }
}
