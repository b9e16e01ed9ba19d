//! The load: events published at a rate, each until the broker has it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use millrace_events::Headers;
use millrace_publisher::{EventPublisher, PublishError, PublishHandle};

use crate::event::{Message, body, customer, messages};

/// Messages on their way at once.
const WINDOW: usize = 200;

/// The time within which the broker must have a message, whatever happens to it meanwhile.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is published where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) subject: &'static str,
    /// The number of the first event, where none is repeated.
    pub(crate) first: u32,
    /// The number behind the last.
    pub(crate) events: u32,
    /// Messages a second.
    pub(crate) rate: u32,
    /// Which events come twice; none where each is to come once.
    pub(crate) repeats: Option<u64>,
    /// Bytes of an event that mean nothing.
    pub(crate) padding: usize,
}

impl Load {
    /// So many events, each once, as fast as the broker takes them.
    pub(crate) fn of(subject: &'static str, events: u32) -> Self {
        Self { subject, first: 0, events, rate: 1_000_000, repeats: None, padding: 0 }
    }

    fn messages(self) -> Box<dyn Iterator<Item = Message> + Send> {
        match self.repeats {
            Some(seed) => Box::new(messages(self.events, seed)),
            None => Box::new((self.first..self.events).map(|event| Message { event, copy: 0 })),
        }
    }
}

/// What the broker has confirmed: each event with its place among those of its customer; none where the event had to be
/// published again, so that nobody knows which of its messages came first.
#[derive(Debug, Default)]
pub(crate) struct Published(pub(crate) BTreeMap<u32, Option<u64>>);

/// Publishes a load and returns when the broker has all of it.
pub(crate) async fn publish(publisher: EventPublisher, load: Load) -> Published {
    let (started, mut confirmed, mut window) = (Instant::now(), Published::default(), VecDeque::new());
    for (index, message) in (0_u32..).zip(load.messages()) {
        let due = started + Duration::from_secs(1) * index / load.rate;
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        if window.len() == WINDOW {
            confirm_oldest(&publisher, load, &mut window, &mut confirmed).await;
        }
        window.push_back((index, message, send(&publisher, load, message).await));
    }
    while !window.is_empty() {
        confirm_oldest(&publisher, load, &mut window, &mut confirmed).await;
    }
    publisher.close().await.unwrap();
    confirmed
}

type Sent = (u32, Message, Result<PublishHandle, PublishError>);

async fn send(publisher: &EventPublisher, load: Load, message: Message) -> Result<PublishHandle, PublishError> {
    let mut headers = Headers::new();
    // A copy made on purpose gets past the stream, and one that is published again for want of an answer does not.
    headers.push("Nats-Msg-Id", format!("{}-{}-{}", load.subject, message.event, message.copy));
    let key = customer(message.event);
    publisher.publish_keyed(load.subject, Some(&key), &headers, body(message.event, load.padding).into()).await
}

async fn confirm_oldest(publisher: &EventPublisher, load: Load, window: &mut VecDeque<Sent>, so_far: &mut Published) {
    let Some((index, message, mut sent)) = window.pop_front() else { return };
    let (deadline, mut again) = (Instant::now() + PATIENCE, false);
    let confirmed = loop {
        let spoken = match sent {
            Ok(handle) => handle.confirmed().await,
            Err(error) => Err(error),
        };
        match spoken {
            Ok(confirmed) => break confirmed,
            Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{message:?}: {error}"),
        }
        again = true;
        tokio::time::sleep(Duration::from_millis(50)).await;
        sent = send(publisher, load, message).await;
    };
    // NATS core tells no place: there the order of publishing is the only one.
    let place = confirmed.sequence.unwrap_or_else(|| index.into());
    let known = so_far.0.entry(message.event).or_insert(Some(place));
    *known = known.filter(|_| !again).map(|known| known.min(place));
}
