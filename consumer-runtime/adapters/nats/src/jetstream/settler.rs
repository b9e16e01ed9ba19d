//! Settling JetStream deliveries.

use std::{sync::Arc, time::Duration};

use async_nats::{Subject, connection::State};
use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    delivery::Receipt,
    ports::{Redelivery, SettleError, Settler},
    settle::Settlement,
};

use crate::{
    connection::Connection,
    jetstream::{acks::Acks, pin::Pinned},
};

/// Settles deliveries of one durable. A receipt is the reply subject of its delivery.
#[derive(Clone, Debug)]
pub struct JetStreamSettler {
    connection: Connection,
    ack_wait: Duration,
    acks: Arc<Acks>,
    /// The hold on a durable whose events are to stay in order.
    pinned: Option<Pinned>,
}

impl JetStreamSettler {
    pub(crate) fn new(connection: Connection, ack_wait: Duration, acks: Arc<Acks>, pinned: Option<Pinned>) -> Self {
        Self { connection, ack_wait, acks, pinned }
    }

    /// Says a word that counts only before its deadline. Without a connection the client would keep it and say it when there is
    /// one again, while somebody else may have the event.
    async fn publish(&self, reply: Subject, payload: Bytes) -> Result<(), SettleError> {
        if self.connection.client.connection_state() != State::Connected {
            return Err(SettleError("there is no connection".to_owned()));
        }
        self.connection.client.publish(reply, payload).await.map_err(|error| SettleError(error.to_string()))
    }
}

/// The subject on which the server waits for a word.
fn reply(receipt: &Receipt) -> Result<Subject, SettleError> {
    let Receipt::Reply(reply) = receipt else {
        return Err(SettleError("the receipt is not one of this broker".to_owned()));
    };
    Subject::try_from(reply.clone()).map_err(|error| SettleError(error.to_string()))
}

#[async_trait]
impl Settler for JetStreamSettler {
    async fn settle(&self, receipt: &Receipt, settlement: Settlement) -> Result<(), SettleError> {
        let reply = reply(receipt)?;
        match settlement {
            Settlement::Done => self.acks.send(&[reply]).await.map_err(SettleError),
            // Without a delay the server delivers it again at once.
            Settlement::RetryAfter(Duration::ZERO) => self.publish(reply, Bytes::from_static(b"-NAK")).await,
            // The delay is given here and never by the server's own back-off, which would be added to it.
            Settlement::RetryAfter(delay) => {
                let payload = format!("-NAK {{\"delay\":{}}}", delay.as_nanos());
                self.publish(reply, payload.into()).await
            }
            Settlement::Extend => {
                if let Some(pinned) = &self.pinned {
                    // A reader whose window is full pulls nothing, and is to stay the one that is pinned.
                    pinned.keep().await;
                }
                self.publish(reply, Bytes::from_static(b"+WPI")).await
            }
        }
    }

    async fn done(&self, receipts: &[Receipt]) -> Result<(), SettleError> {
        let replies: Vec<Subject> = receipts.iter().map(reply).collect::<Result<_, _>>()?;
        self.acks.send(&replies).await.map_err(SettleError)
    }

    async fn flush(&self) -> Result<(), SettleError> {
        self.acks.flush().await.map_err(SettleError)
    }

    fn redelivery(&self) -> Redelivery {
        Redelivery::AfterAckWait(self.ack_wait)
    }
}
