//! The publisher.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectOptions, HeaderMap, RequestErrorKind,
    jetstream::{
        self,
        context::{PublishAckFuture, PublishErrorKind},
    },
};
use bytes::Bytes;
use millrace_events::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::{ConnectError, PublishError},
    options::{Broker, PublisherOptions},
};

/// Longest pause between two attempts to reach a server that is gone.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Publishes events. Cheap to clone; clones share the connection and the window.
///
/// # Guarantees
/// An event whose publish returns `Ok` is with the broker. One that ends in an error may be or may not be; publishing it
/// again is safe, because its id stays the same.
///
/// The connection is made again for ever after it is lost.
#[derive(Clone, Debug)]
pub struct EventPublisher {
    client: Client,
    context: jetstream::Context,
    options: Arc<PublisherOptions>,
    window: Arc<Semaphore>,
}

/// An event that the broker has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Published {
    /// Its place in the stream; `None` on NATS core.
    pub sequence: Option<u64>,
    /// Whether the stream had its message id already, and did not store it again.
    pub duplicate: bool,
}

/// An event that is on its way. Dropping the handle does not take it back.
#[derive(Debug)]
pub struct PublishHandle {
    subject: String,
    sent: Sent,
    confirm_timeout: Duration,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Sent {
    JetStream(PublishAckFuture),
    Core(Client),
}

impl EventPublisher {
    /// Connects.
    ///
    /// # Errors
    /// When the options cannot be used or the server refuses the credentials. A server that is not there yet is waited
    /// for by the first publish.
    pub async fn connect(options: PublisherOptions) -> Result<Self, ConnectError> {
        if !(1..=4096).contains(&options.window) {
            return Err(ConnectError::Window(options.window));
        }
        let mut connect_options = ConnectOptions::new()
            .name("millrace publisher")
            .retry_on_initial_connect()
            .request_timeout(Some(options.confirm_timeout))
            .reconnect_delay_callback(|attempts| {
                let exponent = u32::try_from(attempts).unwrap_or(u32::MAX).min(10);
                Duration::from_millis(50).saturating_mul(2_u32.saturating_pow(exponent)).min(RECONNECT_PAUSE_MAX)
            });
        if let Some(credentials) = &options.credentials {
            connect_options =
                connect_options.user_and_password(credentials.username.clone(), credentials.password.clone());
        }
        let client = connect_options.connect(options.servers.as_slice()).await?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(options.confirm_timeout);
        let window = Arc::new(Semaphore::new(options.window));
        Ok(Self { client, context, options: Arc::new(options), window })
    }

    /// Publishes an event in binary mode and returns when the broker has it.
    pub async fn publish(&self, subject: &str, event: &Event) -> Result<Published, PublishError> {
        self.publish_async(subject, event).await?.confirmed().await
    }

    /// Publishes an event in binary mode and returns when it is sent, with a handle to wait for the broker's word. While
    /// the window is full it waits for room.
    pub async fn publish_async(&self, subject: &str, event: &Event) -> Result<PublishHandle, PublishError> {
        let (headers, payload) = event.encode_binary();
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter() {
            map.append(name, String::from_utf8_lossy(value).as_ref());
        }
        if self.options.message_id {
            map.insert("Nats-Msg-Id", event.id.as_str());
        }
        self.publish_message(subject, map, payload).await
    }

    /// Publishes a message as it is, event or not.
    pub async fn publish_message(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<PublishHandle, PublishError> {
        let permit = Arc::clone(&self.window).acquire_owned().await.map_err(|_| PublishError::Closed)?;
        let sent = match self.options.broker {
            Broker::JetStream => Sent::JetStream(
                self.context
                    .publish_with_headers(subject.to_owned(), headers, payload)
                    .await
                    .map_err(|error| PublishError::Broker(error.into()))?,
            ),
            Broker::Core => {
                let sending = self.client.publish_with_headers(subject.to_owned(), headers, payload);
                sending.await.map_err(|error| PublishError::Broker(error.into()))?;
                Sent::Core(self.client.clone())
            }
        };
        let confirm_timeout = self.options.confirm_timeout;
        Ok(PublishHandle { subject: subject.to_owned(), sent, confirm_timeout, _permit: permit })
    }

    /// Waits until everything sent is confirmed or its time is over, and lets nothing more be published.
    pub async fn close(self) -> Result<(), PublishError> {
        let all = u32::try_from(self.options.window).unwrap_or(u32::MAX);
        let idle = self.window.acquire_many(all);
        let waited = tokio::time::timeout(self.options.confirm_timeout, idle).await;
        self.window.close();
        waited.map_err(|_| PublishError::TimedOut)?.map(drop).map_err(|_| PublishError::Closed)?;
        self.client.drain().await.map_err(|error| PublishError::Broker(error.into()))
    }
}

impl PublishHandle {
    /// Waits until the broker has the event.
    pub async fn confirmed(self) -> Result<Published, PublishError> {
        match self.sent {
            Sent::JetStream(ack) => {
                let ack = tokio::time::timeout(self.confirm_timeout, ack.into_future()).await;
                let ack = ack.map_err(|_| PublishError::TimedOut)?.map_err(|error| match error.kind() {
                    PublishErrorKind::StreamNotFound => PublishError::NoStream(self.subject),
                    PublishErrorKind::TimedOut => PublishError::TimedOut,
                    _ => PublishError::Broker(error.into()),
                })?;
                Ok(Published { sequence: Some(ack.sequence), duplicate: ack.duplicate })
            }
            Sent::Core(client) => {
                // An answer to a later question, even "nobody is there", says that the server has read what came before.
                match client.request(client.new_inbox(), Bytes::new()).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == RequestErrorKind::NoResponders => {}
                    Err(error) if error.kind() == RequestErrorKind::TimedOut => return Err(PublishError::TimedOut),
                    Err(error) => return Err(PublishError::Broker(error.into())),
                }
                Ok(Published { sequence: None, duplicate: false })
            }
        }
    }
}
