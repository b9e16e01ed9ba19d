//! The time of the NATS server, so that the end of a claim does not depend on the clocks of those who race for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use jiff::Timestamp;
use millrace_core::{
    ports::StoreError,
    time::{Clock, Monotonic},
};
use serde::Deserialize;

/// How long one reading of the server's clock is used. A quartz clock drifts by less than a millisecond meanwhile.
const READING_LIFETIME: Duration = Duration::from_secs(30);

/// The time of the server that keeps a stream: read now and then, carried on by the local monotonic clock.
pub(crate) struct ServerTime {
    client: Client,
    subject: String,
    clock: Arc<dyn Clock>,
    reading: Mutex<Option<(Timestamp, Monotonic)>>,
}

/// The part of a stream's info that is read here. Servers since 2.10 give their time.
#[derive(Deserialize)]
struct Info {
    ts: Timestamp,
}

impl ServerTime {
    pub(crate) fn new(client: Client, stream: &str, clock: Arc<dyn Clock>) -> Self {
        Self { client, subject: format!("$JS.API.STREAM.INFO.{stream}"), clock, reading: Mutex::new(None) }
    }

    /// The server's time. It may lag behind by the time that the answer took, which makes a claim end later and never
    /// earlier.
    pub(crate) async fn now(&self) -> Result<Timestamp, StoreError> {
        let reading = *self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (server, local) = match reading {
            Some((server, local)) if self.clock.monotonic().since(local) < READING_LIFETIME => (server, local),
            Some(_) | None => self.read().await?,
        };
        Ok(server.checked_add(self.clock.monotonic().since(local)).unwrap_or(Timestamp::MAX))
    }

    /// Reads the server's clock. Also tells whether the store answers.
    pub(crate) async fn read(&self) -> Result<(Timestamp, Monotonic), StoreError> {
        let unavailable = |error: &dyn std::fmt::Display| StoreError::Unavailable(error.to_string());
        let request = self.client.request(self.subject.clone(), bytes::Bytes::new());
        let answer = request.await.map_err(|error| unavailable(&error))?;
        let info: Info = serde_json::from_slice(&answer.payload).map_err(|error| unavailable(&error))?;
        let reading = (info.ts, self.clock.monotonic());
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        Ok(reading)
    }
}
