//! The pull loop.
//!
//! It is our own because the client library's may stop for half a minute after a server restart when several clients
//! share a durable: it believes that its pull is still known to the server. Here a new connection and two missed
//! heartbeats both make the reader ask again, after it has used what had come.

use std::{collections::VecDeque, sync::Arc};

use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use millrace_core::{
    delivery::{Delivery, Position, Receipt},
    health::{Health, Part, Trouble, TroubleReason},
    ports::{ReadError, Reader},
    time::{Clock, Monotonic},
    window::Budget,
};
use millrace_events::{BrokerKind, Origin};
use tracing::{debug, warn};

use crate::{
    convert::{headers_from, payload_from},
    jetstream::{
        acks::Acks,
        pin::Pinned,
        pull::{Pulls, Status},
        setup::Durable,
        unreadable::Lookout,
    },
};

/// Reads one durable.
pub struct JetStreamReader {
    durable: Durable,
    stream: Arc<str>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    subscription: Option<Subscription>,
    acks: Arc<Acks>,
    pulls: Pulls,
    /// Set when the durable must be looked at again before the next pull.
    check_durable: bool,
    /// The hold on a durable whose events are to stay in order.
    pinned: Option<Pinned>,
    /// Set when the durable must start again before the next pull.
    start_again: bool,
    lookout: Lookout,
    /// Set when what is not settled is to be looked through before the next pull. It is at first: such a message may have
    /// ended the process before this one.
    look: bool,
    /// What was found by that, and not handed on yet.
    found: VecDeque<Delivery>,
}

struct Subscription {
    inbox: String,
    messages: Subscriber,
}

impl JetStreamReader {
    pub(crate) fn new(
        durable: Durable,
        stream: String,
        acks: Arc<Acks>,
        pinned: Option<Pinned>,
        lookout: Lookout,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            durable,
            stream: stream.into(),
            clock,
            health,
            subscription: None,
            acks,
            pulls: Pulls::default(),
            check_durable: false,
            pinned,
            start_again: false,
            lookout,
            look: true,
            found: VecDeque::new(),
        }
    }

    /// Subscribes, if that is not done, and makes the durable again, if it may be gone.
    async fn prepare(&mut self) -> Result<(), ReadError> {
        if self.check_durable {
            if let Err(trouble) = self.durable.prepare().await {
                self.health.fails(Part::Broker, trouble.clone());
                return Err(ReadError::ForNow(trouble.message));
            }
            self.check_durable = false;
        }
        if self.look {
            match self.lookout.look(self.clock.monotonic()).await {
                Ok(found) => self.found.extend(found),
                // What cannot be looked for may still not be there.
                Err(error) => warn!(error, "failed to look for events whose headers cannot be read"),
            }
            self.look = false;
        }
        if let Some(pinned) = self.pinned.as_ref().filter(|_| self.start_again) {
            // The inbox is left first, so that nothing of before is taken for what comes now.
            self.subscription = None;
            self.pulls.forget();
            pinned.start_again().await?;
            self.start_again = false;
        }
        if self.subscription.is_none() {
            let client = &self.durable.connection.client;
            let inbox = client.new_inbox();
            // It only hands the word on to the task of the connection: a refusal is that task's end.
            let messages =
                client.subscribe(inbox.clone()).await.map_err(|error| ReadError::Fatal(error.to_string()))?;
            self.subscription = Some(Subscription { inbox, messages });
        }
        Ok(())
    }

    async fn pull(&mut self, budget: Budget) -> Result<(), ReadError> {
        let Some(subscription) = &self.subscription else {
            return Ok(());
        };
        let Some(pull) = self.pulls.next(budget, self.clock.monotonic()) else {
            return Ok(());
        };
        let pull = match &self.pinned {
            Some(pinned) => pull.pinned(pinned.id()),
            None => pull,
        };
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.durable.options.durable);
        let request = serde_json::to_vec(&pull).map_err(|error| ReadError::ForNow(error.to_string()))?;
        let inbox = subscription.inbox.clone();
        self.durable
            .connection
            .client
            .publish_with_reply(subject, inbox, request.into())
            .await
            .map_err(|error| ReadError::ForNow(error.to_string()))
    }

    /// What a message is: a delivery, or news about a pull.
    fn read(
        &mut self,
        message: Message,
        now: Monotonic,
        received_at: Monotonic,
    ) -> Result<Option<Delivery>, ReadError> {
        // A status line in a message of a stream is its publisher's, and says nothing about a pull.
        let coordinates = message.reply.as_deref().and_then(Coordinates::parse);
        if let (Some(status), None) = (message.status, &coordinates) {
            let status = self.pulls.status(status, message.description.as_deref(), message.headers.as_ref(), now);
            match (status, &self.pinned) {
                (Status::NoConsumer, _) => {
                    warn!(status = ?message.status, "nobody serves the durable");
                    self.check_durable = true;
                    return Err(ReadError::ForNow("the durable is gone, or the server is not ready".to_owned()));
                }
                (Status::WrongPin, Some(pinned)) => pinned.lose(),
                (Status::WrongPin | Status::Waiting | Status::Ended, _) => {}
            }
            return Ok(None);
        }
        self.pulls.delivered(now);
        let Some(coordinates) = coordinates else {
            debug!("a message without JetStream coordinates came; it is not ours");
            return Ok(None);
        };
        if let Some(pinned) = &self.pinned {
            // What comes after a gap would be out of order: the server delivers it again.
            self.start_again = self.start_again || !pinned.follows(message.headers.as_ref(), coordinates.number);
            if self.start_again {
                return Ok(None);
            }
        }
        Ok(Some(delivery(message, &coordinates, &self.stream, received_at)))
    }
}

#[async_trait]
impl Reader for JetStreamReader {
    async fn next_batch(&mut self, budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        loop {
            self.prepare().await?;
            if let Some(found) = self.found.pop_front() {
                return Ok(vec![found]);
            }
            let came_at = self.pulls.came_at(self.clock.monotonic());
            self.pull(budget).await?;
            let patience = self.pulls.patience(self.clock.monotonic());
            let Some(subscription) = &mut self.subscription else {
                continue;
            };
            let generation = &mut self.durable.connection.generation;
            let there = subscription.messages.next().now_or_never();
            let has_lain = there.is_some();
            // What has come is used before anything is concluded from silence.
            let first = if let Some(first) = there {
                first
            } else {
                tokio::select! {
                    biased;
                    message = subscription.messages.next() => message,
                    Ok(()) = generation.changed() => {
                        debug!("a new connection: asking again");
                        self.pulls.forget();
                        self.acks.send_again().await;
                        self.look |= self.lookout.connected_again(self.clock.monotonic());
                        continue;
                    }
                    () = tokio::time::sleep(patience) => {
                        let message = "the broker has missed two heartbeats";
                        warn!(message);
                        self.health.fails(Part::Broker, Trouble::new(TroubleReason::Failing, message));
                        // The server may still know the pull: without an inbox nothing comes of it.
                        self.subscription = None;
                        self.pulls.forget();
                        self.check_durable = true;
                        continue;
                    }
                }
            };
            let Some(first) = first else {
                self.subscription = None;
                self.pulls.forget();
                return Err(ReadError::ForNow("the subscription ended".to_owned()));
            };
            let (mut batch, now) = (Vec::new(), self.clock.monotonic());
            let received_at = if has_lain { came_at } else { now };
            // After that the server gives it to somebody else, or to us again.
            let is_stale = now.since(received_at) >= self.durable.options.ack_wait;
            let mut next = Some(first);
            // No await from here on: what is taken off the subscription is returned.
            while let Some(message) = next {
                match self.read(message, now, received_at) {
                    // Where there is an order, what follows it must not come before it.
                    Ok(Some(_)) if is_stale => self.start_again |= self.pinned.is_some(),
                    Ok(delivery) => batch.extend(delivery),
                    Err(error) if batch.is_empty() => return Err(error),
                    Err(_) => break,
                }
                let full = u32::try_from(batch.len()).unwrap_or(u32::MAX) >= budget.messages;
                let Some(subscription) = &mut self.subscription else {
                    break;
                };
                next = if full { None } else { subscription.messages.next().now_or_never().flatten() };
            }
            self.health.works(Part::Broker);
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    async fn failed(&mut self) -> String {
        self.durable.connection.ended().await
    }

    async fn rest(&mut self) -> Option<Vec<Delivery>> {
        // The server knows no way to take a pull back, and the client drops what is on its way when it unsubscribes, so
        // the pulls are left to end: within their expiry, and at once where events wait.
        while self.pulls.are_outstanding() && !self.start_again {
            let patience = self.pulls.patience(self.clock.monotonic());
            let subscription = self.subscription.as_mut()?;
            let message = tokio::time::timeout(patience, subscription.messages.next()).await.ok()??;
            let now = self.clock.monotonic();
            match self.read(message, now, now) {
                Ok(Some(delivery)) => return Some(vec![delivery]),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        if let Some(pinned) = &self.pinned {
            pinned.release().await;
        }
        None
    }
}

/// A delivery, from a message with these coordinates.
fn delivery(message: Message, coordinates: &Coordinates, stream: &Arc<str>, received_at: Monotonic) -> Delivery {
    let headers = headers_from(message.headers.as_ref());
    Delivery {
        position: Position(coordinates.stream_sequence),
        delivered_count: coordinates.delivered,
        // A copy: an ack that waits to be confirmed must not hold the buffer that its message came in.
        receipt: Receipt::Reply(message.reply.map(|reply| reply.into_string().into()).unwrap_or_default()),
        lane: 0,
        origin: Origin {
            broker: BrokerKind::JetStream,
            stream: Some(Arc::clone(stream)),
            partition: None,
            subject: message.subject.as_str().into(),
            sequence: Some(coordinates.stream_sequence),
        },
        headers,
        payload: payload_from(message.payload),
        key: None,
        published_at: Some(coordinates.published_at),
        received_at,
    }
}

/// What the reply subject of a JetStream message says (NATS ADR-15):
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, newer servers put
/// `<domain>.<account hash>` after `$JS.ACK` and may add tokens at the end.
#[derive(Debug, Eq, PartialEq)]
struct Coordinates {
    delivered: u32,
    stream_sequence: u64,
    /// The number of this delivery among all of the durable.
    number: u64,
    published_at: Timestamp,
}

impl Coordinates {
    fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let has_domain = rest.bytes().filter(|byte| *byte == b'.').count() != 6;
        let mut tokens = rest.split('.').skip(if has_domain { 2 } else { 0 });
        // Its stream and its durable.
        tokens.nth(1)?;
        Some(Self {
            delivered: tokens.next()?.parse().ok()?,
            stream_sequence: tokens.next()?.parse().ok()?,
            number: tokens.next()?.parse().ok()?,
            published_at: since_1970(tokens.next()?.parse().ok()?)?,
        })
    }
}

fn since_1970(nanoseconds: u64) -> Option<Timestamp> {
    const SECOND: u64 = 1_000_000_000;
    let (seconds, rest) = (nanoseconds / SECOND, nanoseconds % SECOND);
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(rest).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        let published_at = Timestamp::from_second(1_700_000_000).unwrap();
        let expected = Some(Coordinates { delivered: 3, stream_sequence: 100, number: 7, published_at });

        assert_eq!(Coordinates::parse("$JS.ACK.ORDERS.emails.3.100.7.1700000000000000000.42"), expected);
        assert_eq!(Coordinates::parse("$JS.ACK._.hash.ORDERS.emails.3.100.7.1700000000000000000.42.token"), expected);
        assert_eq!(Coordinates::parse("_INBOX.x"), None);
    }
}
