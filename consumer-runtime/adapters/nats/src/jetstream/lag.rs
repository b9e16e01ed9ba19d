//! How much waits in the stream, and among the dead letters.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use millrace_core::{
    health::Trouble,
    ports::{self, Letters},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    connection::Connection,
    jetstream::setup::{Durable, JetStreamOptions},
};

/// The time that the server has for the last dead letter. One that it does not let this process read has no answer at all, and
/// whoever asks how many there are is not to wait for that.
const LAST_TIMEOUT: Duration = Duration::from_millis(300);

/// Tells how many events wait for a durable, and how many dead letters there are.
#[derive(Debug)]
pub struct LagProbe {
    connection: Connection,
    stream: String,
    durable: String,
    dead_letter_subject: Option<String>,
    /// The stream of the dead letters, once it was found.
    dead_letter_stream: OnceLock<String>,
    /// The dead letters as they were found last, with the last sequence that their stream had then.
    known: Mutex<Option<(u64, Letters)>>,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    num_pending: u64,
    num_ack_pending: u64,
}

#[derive(Deserialize)]
struct Names {
    streams: Vec<String>,
}

#[derive(Deserialize)]
struct Found {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    time: Timestamp,
}

#[derive(Deserialize)]
struct StreamInfo {
    state: StreamState,
}

#[derive(Deserialize)]
struct StreamState {
    last_seq: u64,
    /// Messages by subject, of the subjects that were asked for.
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

/// Makes the durable, as a source does, and tells from then on what waits for it: for whoever looks and takes nothing.
///
/// # Errors
/// Those of a source that is set up.
pub async fn observe(connection: &Connection, options: &JetStreamOptions) -> Result<LagProbe, Trouble> {
    let durable = Durable { connection: connection.clone(), options: options.clone() };
    let stream = durable.prepare().await?;
    Ok(LagProbe::new(connection.clone(), &stream.name, &options.durable, options.dead_letter_subject.clone()))
}

impl LagProbe {
    pub(crate) fn new(
        connection: Connection,
        stream: &str,
        durable: &str,
        dead_letter_subject: Option<String>,
    ) -> Self {
        let (stream, durable) = (stream.to_owned(), durable.to_owned());
        Self {
            connection,
            stream,
            durable,
            dead_letter_subject,
            dead_letter_stream: OnceLock::new(),
            known: Mutex::default(),
        }
    }

    /// The answer of the JetStream API; nothing when there is none, or when it is an error.
    async fn ask<T: DeserializeOwned>(&self, what: &str, with: Option<Value>) -> Option<T> {
        let payload = with.map(|with| Bytes::from(with.to_string())).unwrap_or_default();
        let answer = self.connection.client.request(format!("$JS.API.{what}"), payload).await.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }

    /// Events that are not settled, whether they wait or were given to somebody who may have died; `None` while that is
    /// not known.
    pub async fn unsettled(&self) -> Option<u64> {
        let info = self.info().await?;
        Some(info.num_pending.saturating_add(info.num_ack_pending))
    }

    async fn info(&self) -> Option<ConsumerInfo> {
        self.ask(&format!("CONSUMER.INFO.{}.{}", self.stream, self.durable), None).await
    }

    fn known(&self) -> Option<(u64, Letters)> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the last message on a subject came; nothing where there is none, or where it may not be read.
    async fn time_of_last(&self, stream: &str, subject: &str) -> Option<Timestamp> {
        let what = format!("STREAM.MSG.GET.{stream}");
        let last = self.ask::<Found>(&what, Some(json!({"last_by_subj": subject})));
        Some(tokio::time::timeout(LAST_TIMEOUT, last).await.ok()??.message.time)
    }

    async fn stream_of(&self, subject: &str) -> Option<&str> {
        if let Some(known) = self.dead_letter_stream.get() {
            return Some(known);
        }
        let names: Names = self.ask("STREAM.NAMES", Some(json!({"subject": subject}))).await?;
        let found = names.streams.into_iter().next()?;
        Some(self.dead_letter_stream.get_or_init(|| found))
    }
}

#[async_trait]
impl ports::LagProbe for LagProbe {
    async fn pending(&self) -> Option<u64> {
        Some(self.info().await?.num_pending)
    }

    async fn dead_letters(&self) -> Option<Letters> {
        let subject = self.dead_letter_subject.as_deref()?;
        let stream = self.stream_of(subject).await?;
        let filter = json!({"subjects_filter": subject});
        let info: StreamInfo = self.ask(&format!("STREAM.INFO.{stream}"), Some(filter)).await?;
        let (sequence, count) =
            (info.state.last_seq, info.state.subjects.values().fold(0_u64, |all, count| all.saturating_add(*count)));
        if let Some((known_at, known)) = self.known()
            && (known_at, known.count) == (sequence, count)
        {
            return Some(known);
        }
        // Its whole message comes with its time, so it is asked for only when there may be another; and one that may not be
        // read is not asked for again and again.
        let last = if count == 0 { None } else { self.time_of_last(stream, subject).await };
        let letters = Letters { count, last };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((sequence, letters));
        Some(letters)
    }
}
