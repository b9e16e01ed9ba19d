//! The publisher.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use millrace_events::{Event, Headers};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

#[cfg(feature = "kafka")]
use crate::kafka::{self, Kafka};
use crate::{
    connect::connect_client,
    error::{ConnectError, PublishError},
    jetstream::{self, JetStream},
    nats::{Core, Unconfirmed},
    options::{Broker, PublisherOptions, WINDOW_MAX},
};

/// Publishes events. Cheap to clone; clones share the connection and the window.
///
/// # Guarantees
/// An event whose publish returns `Ok` is with the broker. One that ends in an error may be or may not be; publishing it
/// again is safe, because its id stays the same.
///
/// A lost connection is made again for ever, with pauses that double up to a second.
#[derive(Clone, Debug)]
pub struct EventPublisher {
    target: Target,
    confirm_timeout: Duration,
    window: Arc<Semaphore>,
    window_size: u32,
}

#[derive(Clone, Debug)]
enum Target {
    JetStream {
        client: Client,
        stream: JetStream,
    },
    Core {
        client: Client,
        core: Core,
    },
    #[cfg(feature = "kafka")]
    Kafka(Kafka),
}

/// An event that the broker has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Published {
    /// Its place in the stream, or in its partition on Kafka; `None` on NATS core.
    pub sequence: Option<u64>,
    /// Whether the stream had its message id already, and did not store it again.
    pub duplicate: bool,
}

/// An event that is on its way. It goes on its way whether or not anybody waits, and holds its place in the window until
/// the broker has spoken: handles may be collected, awaited later or dropped.
#[derive(Debug)]
pub struct PublishHandle(oneshot::Receiver<Result<Published, PublishError>>);

impl EventPublisher {
    /// Connects. A server that does not answer is tried again until `connect_timeout` is over.
    ///
    /// # Errors
    /// When the options cannot be used, the server refuses the credentials, or no server answers.
    pub async fn connect(options: PublisherOptions) -> Result<Self, ConnectError> {
        let window_size = u32::try_from(options.window).ok().filter(|window| (1..=WINDOW_MAX).contains(window));
        let window_size = window_size.ok_or(ConnectError::Window(options.window))?;
        let target = match options.broker {
            Broker::JetStream => {
                let client = connect_client(&options).await?;
                Target::JetStream { stream: JetStream::new(client.clone(), options.confirm_timeout), client }
            }
            Broker::Core => {
                let client = connect_client(&options).await?;
                Target::Core { core: Core::new(client.clone()), client }
            }
            #[cfg(feature = "kafka")]
            Broker::Kafka => Target::Kafka(Kafka::connect(&options).await?),
        };
        Ok(Self {
            target,
            confirm_timeout: options.confirm_timeout,
            window: Arc::new(Semaphore::new(options.window)),
            window_size,
        })
    }

    /// Publishes an event in binary mode and returns when the broker has it.
    pub async fn publish(&self, subject: &str, event: &Event) -> Result<Published, PublishError> {
        self.publish_async(subject, event).await?.confirmed().await
    }

    /// Publishes an event in binary mode and returns when it is sent, with a handle to wait for the broker's word. While
    /// the window is full it waits for room.
    ///
    /// The event's id is the message id: a stream drops a repeated publish within its duplicate window. On Kafka `subject`
    /// is the topic, and the record's key is the event's ordering key: its extension `partitionkey`, else the `order_id` of
    /// the shop's events.
    pub async fn publish_async(&self, subject: &str, event: &Event) -> Result<PublishHandle, PublishError> {
        #[cfg(feature = "kafka")]
        if matches!(self.target, Target::Kafka(_)) {
            let (headers, payload) = event.encode_kafka();
            return self.publish_keyed(subject, kafka::ordering_key(event).as_deref(), &headers, payload).await;
        }
        let (mut headers, payload) = event.encode_binary();
        headers.push("Nats-Msg-Id", event.id.as_str().to_owned());
        self.publish_message(subject, &headers, payload).await
    }

    /// Publishes a message as it is, event or not. The caller chooses its message id, the header `Nats-Msg-Id`: an event
    /// that is to be stored twice on purpose needs two of them.
    pub async fn publish_message(
        &self,
        subject: &str,
        headers: &Headers,
        payload: Bytes,
    ) -> Result<PublishHandle, PublishError> {
        self.publish_keyed(subject, None, headers, payload).await
    }

    /// Publishes a message as it is, with a key where the broker has keys: on Kafka, messages with the same key keep their
    /// order.
    pub async fn publish_keyed(
        &self,
        subject: &str,
        key: Option<&str>,
        headers: &Headers,
        payload: Bytes,
    ) -> Result<PublishHandle, PublishError> {
        let permit = Arc::clone(&self.window).acquire_owned().await.map_err(|_| PublishError::Closed)?;
        // While the connection is down the client's own queue may be full, so sending has a bound of its own.
        let sent = timeout(self.confirm_timeout, self.send(subject.to_owned(), key, headers, payload));
        let sent = sent.await.map_err(|_| PublishError::TimedOut)??;
        Ok(track(confirmed(sent, self.confirm_timeout), permit))
    }

    async fn send(
        &self,
        subject: String,
        key: Option<&str>,
        headers: &Headers,
        payload: Bytes,
    ) -> Result<Sent, PublishError> {
        match &self.target {
            Target::JetStream { stream, .. } => {
                let ack = stream.send(subject.clone(), header_map(headers)?, payload).await?;
                Ok(Sent::JetStream { ack, subject })
            }
            Target::Core { core, .. } => core.send(subject, header_map(headers)?, payload).await.map(Sent::Core),
            #[cfg(feature = "kafka")]
            Target::Kafka(kafka) => kafka.send(subject, key, headers, payload).await.map(Sent::Kafka),
        }
    }

    /// Lets nothing more be published, on clones neither, and returns when the broker has spoken on everything sent or
    /// its time is over. What became of each event, its handle says.
    pub async fn close(self) -> Result<(), PublishError> {
        // Every place in the window is free again when nothing is on its way.
        let idle = self.window.acquire_many(self.window_size).await.map_err(|_| PublishError::Closed)?;
        self.window.close();
        drop(idle);
        match self.target {
            Target::JetStream { client, .. } | Target::Core { client, .. } => {
                client.drain().await.map_err(|error| PublishError::Broker(error.into()))
            }
            // Everything is confirmed or given up: there is nothing to flush.
            #[cfg(feature = "kafka")]
            Target::Kafka(_) => Ok(()),
        }
    }
}

impl PublishHandle {
    /// Waits until the broker has the event.
    pub async fn confirmed(self) -> Result<Published, PublishError> {
        self.0.await.unwrap_or(Err(PublishError::Closed))
    }
}

/// A message that has been sent.
enum Sent {
    JetStream {
        ack: async_nats::jetstream::context::PublishAckFuture,
        subject: String,
    },
    Core(Unconfirmed),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Unconfirmed),
}

async fn confirmed(sent: Sent, limit: Duration) -> Result<Published, PublishError> {
    let confirmed = async {
        match sent {
            Sent::JetStream { ack, subject } => jetstream::confirmed(ack, &subject).await,
            Sent::Core(unconfirmed) => unconfirmed.confirmed().await,
            #[cfg(feature = "kafka")]
            Sent::Kafka(unconfirmed) => unconfirmed.confirmed().await,
        }
    };
    timeout(limit, confirmed).await.unwrap_or(Err(PublishError::TimedOut))
}

/// Waits for a confirmation in the background and frees the place in the window with it. The window bounds the tasks, and
/// the confirmation's time limit ends each.
#[expect(clippy::disallowed_methods, reason = "the engine, which names and owns tasks, is not for publishers")]
fn track(
    confirmed: impl Future<Output = Result<Published, PublishError>> + Send + 'static,
    permit: OwnedSemaphorePermit,
) -> PublishHandle {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let outcome = confirmed.await;
        drop(permit);
        // Nobody may be waiting.
        drop(sender.send(outcome));
    });
    PublishHandle(receiver)
}

/// Headers as NATS sends them.
fn header_map(headers: &Headers) -> Result<HeaderMap, PublishError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        let pair = name.parse::<HeaderName>().ok().zip(std::str::from_utf8(value).ok());
        let pair = pair.and_then(|(name, value)| Some((name, value.parse::<HeaderValue>().ok()?)));
        let (name, value) = pair.ok_or_else(|| PublishError::Header(name.chars().take(64).collect()))?;
        map.append(name, value);
    }
    Ok(map)
}
