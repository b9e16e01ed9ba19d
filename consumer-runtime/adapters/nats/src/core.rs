//! The NATS core source: at most once. What is published while nobody listens is gone, and so is what is on its way when
//! a reader leaves.

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use futures::{FutureExt, StreamExt, stream::SelectAll};
use millrace_core::{
    delivery::{Delivery, Position, Receipt},
    health::{Health, Part, Trouble, TroubleReason},
    ports::{ReadError, Reader, Redelivery, SettleError, Settler},
    settle::Settlement,
    time::Clock,
    window::Budget,
};
use millrace_events::{BrokerKind, Origin};

use crate::{
    connection::Connection,
    convert::{headers_from, payload_from},
};

/// What to consume.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// Subjects to consume.
    pub subjects: Vec<String>,
    /// The queue group that all replicas share.
    pub queue_group: String,
}

/// Reads subjects of NATS core.
pub struct CoreReader {
    messages: SelectAll<Subscriber>,
    connection: Connection,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    taken: u64,
    leaving: bool,
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
    let reader = CoreReader {
        messages,
        connection: connection.clone(),
        clock: Arc::clone(clock),
        health: Arc::clone(health),
        taken: 0,
        leaving: false,
    };
    Ok((reader, CoreSettler { connection: connection.clone() }))
}

impl CoreReader {
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
            payload: payload_from(message.payload),
            key: None,
            published_at: None,
            received_at: self.clock.monotonic(),
        }
    }
}

#[async_trait]
impl Reader for CoreReader {
    async fn next_batch(&mut self, budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        let first = loop {
            tokio::select! {
                biased;
                message = self.messages.next() => break message,
                // The subscriptions are made again with the connection.
                Ok(()) = self.connection.generation.changed() => { self.health.works(Part::Broker); }
            }
        };
        let Some(first) = first else {
            // They outlive every connection but not the task that makes these.
            return Err(ReadError::Fatal("the subscriptions ended".to_owned()));
        };
        let mut batch = vec![self.delivery(first)];
        // No await from here on: what is taken off the subscriptions is returned.
        while u32::try_from(batch.len()).unwrap_or(u32::MAX) < budget.messages {
            let Some(Some(message)) = self.messages.next().now_or_never() else {
                break;
            };
            batch.push(self.delivery(message));
        }
        Ok(batch)
    }

    async fn failed(&mut self) -> String {
        self.connection.ended().await
    }

    async fn rest(&mut self) -> Option<Vec<Delivery>> {
        if !self.leaving {
            self.leaving = true;
            for subscription in &mut self.messages {
                // A closed connection has nothing more to give.
                subscription.drain().await.ok()?;
            }
            self.connection.round_trip().await.ok()?;
        }
        let message = self.messages.next().await?;
        Some(vec![self.delivery(message)])
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
