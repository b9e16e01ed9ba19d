//! The NATS core source: at most once. What is published while nobody listens is gone, and so is what is on its way when
//! a reader leaves.

mod waiting;

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use futures::{StreamExt, stream::SelectAll};
use millrace_core::{
    delivery::{Delivery, Position, Receipt},
    health::{Health, Part, Trouble, TroubleReason},
    ports::{ReadError, Reader, Redelivery, SettleError, Settler},
    settle::Settlement,
    time::Clock,
    window::Budget,
};
use millrace_events::{BrokerKind, Origin};
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    connection::Connection,
    convert::headers_from,
    core::waiting::{Taken, Waiting},
};

/// What to consume.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// Subjects to consume.
    pub subjects: Vec<String>,
    /// The queue group that all replicas share.
    pub queue_group: String,
    /// Most bytes that wait to be taken. What comes beyond them is dropped.
    pub waiting_bytes: u32,
}

/// Reads subjects of NATS core.
pub struct CoreReader {
    waiting: Arc<Waiting>,
    connection: Connection,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    taken: u64,
    /// The subscriptions are given up when it is dropped.
    stay: Option<oneshot::Sender<()>>,
    /// Ends with the reader.
    _receiver: JoinSet<()>,
}

/// There is nothing to settle: the server forgets a message when it has sent it.
#[derive(Clone, Debug)]
pub struct CoreSettler {
    connection: Connection,
}

/// Subscribes to the subjects. The client library keeps the subscriptions up over reconnects.
///
/// # Errors
/// When the connection is closed for good.
pub async fn subscribe(
    connection: &Connection,
    options: &CoreOptions,
    clock: &Arc<dyn Clock>,
    health: &Arc<Health>,
) -> Result<(CoreReader, CoreSettler), Trouble> {
    let failed = |error: String| Trouble::new(TroubleReason::Failing, format!("failed to subscribe: {error}"));
    let mut messages = SelectAll::new();
    for subject in &options.subjects {
        let subscription = connection.client.queue_subscribe(subject.clone(), options.queue_group.clone()).await;
        messages.push(subscription.map_err(|error| failed(error.to_string()))?);
    }
    connection.round_trip().await.map_err(failed)?;
    health.works(Part::Broker);
    let waiting = Arc::new(Waiting::up_to(usize::try_from(options.waiting_bytes).unwrap_or(usize::MAX)));
    let (stay, leave) = oneshot::channel();
    let mut receiver = JoinSet::new();
    receiver.spawn(receive(messages, Arc::clone(&waiting), leave));
    let reader = CoreReader {
        waiting,
        connection: connection.clone(),
        clock: Arc::clone(clock),
        health: Arc::clone(health),
        taken: 0,
        stay: Some(stay),
        _receiver: receiver,
    };
    Ok((reader, CoreSettler { connection: connection.clone() }))
}

/// Takes what comes off the subscriptions at once, so that it waits where it is bounded in bytes: the client's own queues
/// are bounded in messages, of any size.
async fn receive(mut messages: SelectAll<Subscriber>, waiting: Arc<Waiting>, mut leave: oneshot::Receiver<()>) {
    let mut leaving = false;
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => waiting.add(message),
                None => break,
            },
            _ = &mut leave, if !leaving => {
                leaving = true;
                for subscription in &mut messages {
                    if subscription.drain().await.is_err() {
                        // A closed connection has nothing more to give.
                        waiting.end();
                    }
                }
            }
        }
    }
    waiting.end();
}

impl CoreReader {
    fn deliveries(&mut self, messages: Vec<Message>) -> Vec<Delivery> {
        messages.into_iter().map(|message| self.delivery(message)).collect()
    }

    fn delivery(&mut self, message: Message) -> Delivery {
        self.taken += 1;
        Delivery {
            position: Position(self.taken),
            delivered_count: 1,
            receipt: Receipt::Nothing,
            lane: 0,
            origin: Origin {
                broker: BrokerKind::Nats,
                stream: None,
                partition: None,
                subject: message.subject.as_str().into(),
                sequence: None,
            },
            headers: headers_from(message.headers.as_ref()),
            payload: message.payload,
            key: None,
            published_at: None,
            received_at: self.clock.monotonic(),
        }
    }
}

#[async_trait]
impl Reader for CoreReader {
    async fn next_batch(&mut self, budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        loop {
            // No await from the taking to the return: what is taken is returned.
            match self.waiting.take(budget) {
                Taken::Some(messages) => return Ok(self.deliveries(messages)),
                // They outlive every connection but not the task that makes these.
                Taken::Ended => return Err(ReadError::Fatal("the subscriptions ended".to_owned())),
                Taken::Nothing => {}
            }
            tokio::select! {
                () = self.waiting.news() => {}
                // The subscriptions are made again with the connection.
                Ok(()) = self.connection.generation.changed() => { self.health.works(Part::Broker); }
            }
        }
    }

    fn dropped(&mut self) -> u64 {
        self.waiting.dropped() + self.connection.overflowed()
    }

    async fn failed(&mut self) -> String {
        self.connection.ended().await
    }

    async fn rest(&mut self) -> Option<Vec<Delivery>> {
        if let Some(stay) = self.stay.take() {
            drop(stay);
            if self.connection.round_trip().await.is_err() {
                self.waiting.end();
            }
        }
        loop {
            match self.waiting.take(Budget { messages: u32::MAX, bytes: u32::MAX }) {
                Taken::Some(messages) => return Some(self.deliveries(messages)),
                Taken::Ended => return None,
                Taken::Nothing => self.waiting.news().await,
            }
        }
    }
}

#[async_trait]
impl Settler for CoreSettler {
    async fn settle(&self, _receipt: &Receipt, _settlement: Settlement) -> Result<(), SettleError> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), SettleError> {
        self.connection.round_trip().await.map_err(SettleError)
    }

    fn redelivery(&self) -> Redelivery {
        Redelivery::Never
    }
}
