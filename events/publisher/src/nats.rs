//! Publishing to whoever listens.

use std::sync::atomic::Ordering;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures::StreamExt;

use crate::{error::PublishError, publisher::Published};

/// NATS core, which confirms nothing by itself.
#[derive(Clone, Debug)]
pub(crate) struct Core(Client);

/// A message that has been handed to the connection.
pub(crate) struct Unconfirmed {
    client: Client,
    /// How many connections there had been by then.
    connects: u64,
}

impl Core {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    pub(crate) async fn send(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Unconfirmed, PublishError> {
        let connects = connects(&self.0);
        self.0.publish_with_headers(subject, headers, payload).await.map_err(broken)?;
        Ok(Unconfirmed { client: self.0.clone(), connects })
    }
}

impl Unconfirmed {
    /// Waits until the server has read the message. The client's own flush says only that the bytes have left. A word to
    /// ourselves that comes back proves more, because a server reads a connection in order; on another connection than
    /// the message's it proves nothing.
    pub(crate) async fn confirmed(self) -> Result<Published, PublishError> {
        let inbox = self.client.new_inbox();
        let mut echo = self.client.subscribe(inbox.clone()).await.map_err(broken)?;
        self.client.publish(inbox, Bytes::new()).await.map_err(broken)?;
        if echo.next().await.is_none() || connects(&self.client) != self.connects {
            return Err(PublishError::Disconnected);
        }
        Ok(Published { sequence: None, duplicate: false })
    }
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> PublishError {
    PublishError::Broker(Box::new(error))
}
