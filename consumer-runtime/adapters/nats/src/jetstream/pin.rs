//! The pin of a durable whose events are to stay in order.
//!
//! The server gives the events of such a durable to one reader, which it has pinned; the others stand by. A reader that
//! was just pinned has the server start again behind what is settled, so that it sees everything that is not, in order.
//! What somebody else still has at work meets that one's claim.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use millrace_core::ports::ReadError;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::debug;

use crate::{connection::Connection, jetstream::pull::Pull};

/// The priority group of the durable. It has one.
pub(crate) const GROUP: &str = "millrace";

/// The least time between two such words: half of the smallest ack wait that can be asked for.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A reader's hold on a durable, shared with what settles its deliveries.
#[derive(Clone, Debug)]
pub(crate) struct Pinned {
    connection: Connection,
    /// `<stream>.<durable>`, as the subjects of the API end.
    durable: String,
    pin: Arc<Mutex<Pin>>,
    /// When it was last said that the pin is held though nothing is pulled.
    kept_at: Arc<Mutex<Option<Instant>>>,
}

/// What a reader knows of its pin. Pure.
#[derive(Debug, Default, Eq, PartialEq)]
struct Pin {
    id: Option<String>,
    /// The number of the next delivery of this durable, if none has gone elsewhere or was lost.
    next_number: u64,
}

#[derive(Deserialize)]
struct Answer {
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    description: String,
}

impl Pinned {
    pub(crate) fn new(connection: Connection, stream: &str, durable: &str) -> Self {
        Self { connection, durable: format!("{stream}.{durable}"), pin: Arc::default(), kept_at: Arc::default() }
    }

    /// The pin to pull with; none while this reader stands by.
    pub(crate) fn id(&self) -> Option<String> {
        self.pin().id.clone()
    }

    /// A delivery came. Whether all before it came too; if not, it is to be dropped and the durable to start again.
    pub(crate) fn follows(&self, headers: Option<&HeaderMap>, number: u64) -> bool {
        // The server's own is the last: whoever publishes may have written one before it.
        let id = headers.and_then(|headers| headers.get_last("Nats-Pin-Id")).map(ToString::to_string);
        self.pin().follows(id, number)
    }

    /// The server has pinned somebody else.
    pub(crate) fn lose(&self) {
        debug!("another replica has the pin: standing by");
        self.pin().id = None;
    }

    /// Has the server deliver again everything behind what is settled.
    pub(crate) async fn start_again(&self) -> Result<(), ReadError> {
        let answer = self.request("RESET", Bytes::new()).await?;
        if let Some(error) = answer.error {
            return Err(ReadError::ForNow(format!("the durable cannot start again: {}", error.description)));
        }
        self.pin().next_number = 1;
        debug!("pinned: the durable starts again behind what is settled");
        Ok(())
    }

    /// Keeps the pin while nothing is pulled: the server takes it from who has not asked for the whole ack wait. What is
    /// asked for is too small for any event.
    pub(crate) async fn keep(&self) {
        let Some(id) = self.id().filter(|_| self.is_due()) else { return };
        let Ok(request) = serde_json::to_vec(&Pull::of_nothing(id)) else { return };
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}", self.durable);
        let client = &self.connection.client;
        if let Err(error) = client.publish_with_reply(subject, client.new_inbox(), request.into()).await {
            debug!(%error, "failed to keep the pin");
        }
    }

    /// Lets another replica take over now, instead of after the ack wait.
    pub(crate) async fn release(&self) {
        if self.pin().id.take().is_some()
            && let Err(error) = self.request("UNPIN", Bytes::from(format!("{{\"group\":\"{GROUP}\"}}"))).await
        {
            debug!(%error, "failed to release the pin");
        }
    }

    /// Whether it is time to say so again. Every delivery that is held asks.
    fn is_due(&self) -> bool {
        let mut kept_at = self.kept_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = kept_at.is_none_or(|kept_at| kept_at.elapsed() >= KEEP_INTERVAL);
        if due {
            *kept_at = Some(Instant::now());
        }
        due
    }

    async fn request(&self, verb: &str, payload: Bytes) -> Result<Answer, ReadError> {
        let subject = format!("$JS.API.CONSUMER.{verb}.{}", self.durable);
        let answer = self.connection.client.request(subject, payload).await;
        let answer = answer.map_err(|error| ReadError::ForNow(error.to_string()))?;
        serde_json::from_slice(&answer.payload).map_err(|error| ReadError::ForNow(error.to_string()))
    }

    fn pin(&self) -> MutexGuard<'_, Pin> {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pin {
    fn follows(&mut self, id: Option<String>, number: u64) -> bool {
        if self.id == id && self.next_number == number {
            self.next_number = number.saturating_add(1);
            return true;
        }
        self.id = id;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_follows_only_when_nothing_was_lost_and_nobody_else_was_pinned_in_between() {
        let id = |id: &str| Some(id.to_owned());
        let mut pin = Pin::default();

        assert!(!pin.follows(id("a"), 17), "just pinned");
        pin.next_number = 1;
        assert!(pin.follows(id("a"), 1));
        assert!(pin.follows(id("a"), 2));
        assert!(!pin.follows(id("a"), 4), "one was lost on its way");
        pin.next_number = 1;
        assert!(pin.follows(id("a"), 1));
        assert!(!pin.follows(id("b"), 2), "pinned anew: somebody else may have read in between");
    }
}
