//! Publishing to whoever listens.

use async_nats::{Client, HeaderMap, RequestErrorKind};
use bytes::Bytes;

use crate::{error::PublishError, publisher::Published};

/// NATS core, which confirms nothing by itself.
#[derive(Clone, Debug)]
pub(crate) struct Core(pub(crate) Client);

impl Core {
    pub(crate) async fn send(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<(), PublishError> {
        let sent = self.0.publish_with_headers(subject, headers, payload).await;
        sent.map_err(|error| PublishError::Broker(error.into()))
    }

    /// Waits until the server has read what was sent. The client's own flush says only that the bytes have left. An
    /// answer to a later question, even "nobody is there", proves more, because a server reads a connection in order.
    pub(crate) async fn confirmed(&self) -> Result<Published, PublishError> {
        match self.0.request(self.0.new_inbox(), Bytes::new()).await {
            Ok(_) => {}
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {}
            Err(error) if error.kind() == RequestErrorKind::TimedOut => return Err(PublishError::TimedOut),
            Err(error) => return Err(PublishError::Broker(error.into())),
        }
        Ok(Published { sequence: None, duplicate: false })
    }
}
