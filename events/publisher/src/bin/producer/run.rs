//! Publishes the stream: at its rate, within the window, each message until the broker has confirmed it.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use millrace_events::Headers;
use millrace_publisher::{
    Broker, ConnectError, Credentials, EventPublisher, PublishError, PublishHandle, PublisherOptions,
};

use crate::{
    args::{Args, To},
    generate::{Message, Messages, Plan},
    ids::Ids,
    progress::Progress,
    streams,
    summary::Summary,
};

/// Tries to publish one message, while a broker comes back for example. Each waits for the confirmation's time limit.
const PUBLISH_TRIES: u32 = 30;

/// The pause before a message is published again.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);

/// What ends the producer early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("duplicates and poison leave no room for events: raise --count")]
    Plan,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("failed to create stream {stream}")]
    Stream { stream: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("gave up after {published} of {count} messages")]
    Publish { published: u64, count: u32, source: PublishError },
    #[error("failed to write {path}")]
    Write { path: String, source: std::io::Error },
}

pub(crate) async fn run(args: &Args) -> Result<Summary, Error> {
    let plan = Plan::new(args.count, args.duplicates_percent, args.poison, args.seed).ok_or(Error::Plan)?;
    let mut ids = Ids::create(args.ids.as_deref())?;
    if args.create_streams {
        streams::create(args, &publisher_options(args)).await?;
    }
    let publisher = EventPublisher::connect(publisher_options(args)).await?;
    let failed = |published: u64| move |source| Error::Publish { published, count: args.count, source };
    let mut progress = Progress::start(args.count);
    let mut summary = Summary::default();
    let mut in_flight: VecDeque<(Outgoing, PublishHandle)> = VecDeque::new();
    for outgoing in outgoing(plan, args.broker) {
        progress.pace(args.rate).await;
        if in_flight.len() >= args.window
            && let Some((oldest, handle)) = in_flight.pop_front()
        {
            confirm(&publisher, &oldest, handle).await.map_err(failed(summary.published))?;
            ids.add(&oldest.message)?;
            summary.add(&oldest.message);
        }
        let handle = send(&publisher, &outgoing).await.map_err(failed(summary.published))?;
        in_flight.push_back((outgoing, handle));
        progress.sent();
    }
    for (oldest, handle) in in_flight {
        confirm(&publisher, &oldest, handle).await.map_err(failed(summary.published))?;
        ids.add(&oldest.message)?;
        summary.add(&oldest.message);
    }
    publisher.close().await.map_err(failed(summary.published))?;
    summary.seconds = progress.seconds();
    ids.finish()?;
    write(args, &summary)?;
    Ok(summary)
}

fn publisher_options(args: &Args) -> PublisherOptions {
    let broker = match args.broker {
        To::JetStream if args.core => Broker::Core,
        To::JetStream => Broker::JetStream,
        #[cfg(feature = "kafka")]
        To::Kafka => Broker::Kafka,
    };
    let credentials = args.user.clone().zip(args.password.clone());
    PublisherOptions {
        credentials: credentials.map(|(username, password)| Credentials { username, password }),
        window: args.window,
        ..PublisherOptions::new([args.server.clone()], broker)
    }
}

/// A message as it is sent.
struct Outgoing {
    message: Message,
    subject: &'static str,
    key: Option<String>,
    headers: Headers,
    payload: Bytes,
}

/// The messages of a plan with a message id each, which no other message and no other run has. So a duplicate made on
/// purpose gets past the stream, and a message that is published again for want of an answer is stored once.
fn outgoing(plan: Plan, broker: To) -> impl Iterator<Item = Outgoing> {
    let run = fastrand::u64(..);
    Messages::new(plan).enumerate().map(move |(index, message)| {
        let (subject, key, (mut headers, payload)) = match &message {
            Message::New(valid) | Message::Duplicate(valid) => {
                let encoded = match broker {
                    To::JetStream => valid.event.encode_binary(),
                    #[cfg(feature = "kafka")]
                    To::Kafka => valid.event.encode_kafka(),
                };
                (valid.shop_event.nats_subject(), Some(valid.shop_event.order_id().to_owned()), encoded)
            }
            Message::Poison(_, payload) => ("orders.placed", None, (Headers::new(), payload.clone())),
        };
        if broker == To::JetStream {
            headers.push("Nats-Msg-Id", format!("producer-{run:016x}-{index}"));
        }
        Outgoing { message, subject, key, headers, payload }
    })
}

/// Sends a message, and again while the connection is down.
async fn send(publisher: &EventPublisher, outgoing: &Outgoing) -> Result<PublishHandle, PublishError> {
    let key = outgoing.key.as_deref();
    let send = || publisher.publish_keyed(outgoing.subject, key, &outgoing.headers, outgoing.payload.clone());
    for _ in 1..PUBLISH_TRIES {
        match send().await {
            Err(error) if error.is_retryable() => tokio::time::sleep(PUBLISH_PAUSE).await,
            spoken => return spoken,
        }
    }
    send().await
}

/// Waits for the broker's word, and publishes again where there is none: at once at first, because all that was on its way
/// when a server went has waited together, then with pauses.
async fn confirm(publisher: &EventPublisher, outgoing: &Outgoing, handle: PublishHandle) -> Result<(), PublishError> {
    let mut confirmed = handle.confirmed().await;
    for failures in 1..PUBLISH_TRIES {
        match confirmed {
            Err(error) if error.is_retryable() => {
                if failures > 1 {
                    tokio::time::sleep(PUBLISH_PAUSE).await;
                }
                confirmed = send(publisher, outgoing).await?.confirmed().await;
            }
            spoken => return spoken.map(drop),
        }
    }
    confirmed.map(drop)
}

fn write(args: &Args, summary: &Summary) -> Result<(), Error> {
    let json = summary.to_json();
    if let Some(path) = &args.summary {
        std::fs::write(path, &json).map_err(|source| Error::Write { path: path.display().to_string(), source })?;
    }
    if args.summary_json {
        println!("{json}");
    }
    Ok(())
}
