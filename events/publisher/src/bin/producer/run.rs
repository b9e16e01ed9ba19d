//! Publishes the stream: at its rate, within the window, each message until the broker has confirmed it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use millrace_events::Event;
use millrace_publisher::{Broker, Credentials, EventPublisher, PublishError, PublishHandle, PublisherOptions};

use crate::{
    args::Args,
    generate::{self, Message, Plan},
    summary::Summary,
};

/// Tries to publish one message, while a broker comes back for example.
const PUBLISH_TRIES: u32 = 30;

/// What ends the producer early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to connect to {server}: {error}")]
    Connect { server: String, error: String },
    #[error("failed to create stream {stream}: {error}")]
    Stream { stream: &'static str, error: String },
    #[error("failed to publish: {0}")]
    Publish(#[from] PublishError),
    #[error("failed to write the summary: {0}")]
    Summary(#[from] std::io::Error),
    #[error("duplicates and poison leave no room for events: raise --count")]
    Plan,
}

pub(crate) async fn run(args: &Args) -> Result<Summary, Error> {
    let duplicates = args.count * args.duplicates_percent / 100;
    if duplicates + args.poison >= args.count {
        return Err(Error::Plan);
    }
    let stream = generate::messages(Plan { count: args.count, duplicates, poison: args.poison, seed: args.seed });
    if args.create_streams {
        create_streams(args).await?;
    }
    let publisher = connect(args).await?;
    let mut progress = Progress::start(args.count);
    let mut summary = Summary::default();
    let mut window: VecDeque<(Message, PublishHandle)> = VecDeque::new();
    for message in stream {
        progress.pace(args.rate).await;
        if window.len() >= args.window
            && let Some((message, handle)) = window.pop_front()
        {
            confirm(&publisher, &message, handle).await?;
            summary.add(&message);
        }
        let handle = send(&publisher, &message).await?;
        window.push_back((message, handle));
        progress.sent();
    }
    for (message, handle) in window {
        confirm(&publisher, &message, handle).await?;
        summary.add(&message);
    }
    summary.seconds = progress.started.elapsed().as_secs_f64();
    publisher.close().await?;
    write(args, &summary)?;
    Ok(summary)
}

async fn connect(args: &Args) -> Result<EventPublisher, Error> {
    let broker = if args.core { Broker::Core } else { Broker::JetStream };
    let credentials = args.user.clone().zip(args.password.clone());
    let options = PublisherOptions {
        credentials: credentials.map(|(username, password)| Credentials { username, password }),
        window: args.window,
        // The duplicates are to reach the consumers, not to be dropped by the stream.
        message_id: false,
        ..PublisherOptions::new([args.server.clone()], broker)
    };
    let connecting = EventPublisher::connect(options).await;
    connecting.map_err(|error| Error::Connect { server: args.server.clone(), error: error.to_string() })
}

async fn send(publisher: &EventPublisher, message: &Message) -> Result<PublishHandle, PublishError> {
    match message {
        Message::New(valid) | Message::Duplicate(valid) => {
            let event: &Event = &valid.event;
            publisher.publish_async(valid.shop_event.nats_subject(), event).await
        }
        Message::Poison(_, payload) => {
            publisher.publish_message("orders.placed", HeaderMap::new(), payload.clone()).await
        }
    }
}

/// Waits for the broker's word, and publishes again where there is none. That may store a message twice, which is one
/// duplicate more; poison, which has no id to be recognised by, is told apart by its own bytes at the dead letters.
async fn confirm(publisher: &EventPublisher, message: &Message, handle: PublishHandle) -> Result<(), Error> {
    let mut confirmed = handle.confirmed().await;
    for _ in 1..PUBLISH_TRIES {
        match confirmed {
            Ok(_) => return Ok(()),
            Err(error @ PublishError::NoStream(_)) => return Err(error.into()),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                confirmed = send(publisher, message).await?.confirmed().await;
            }
        }
    }
    confirmed.map(drop).map_err(Error::from)
}

async fn create_streams(args: &Args) -> Result<(), Error> {
    let connect_error =
        |error: async_nats::ConnectError| Error::Connect { server: args.server.clone(), error: error.to_string() };
    let mut options = async_nats::ConnectOptions::new();
    if let (Some(user), Some(password)) = (&args.user, &args.password) {
        options = options.user_and_password(user.clone(), password.clone());
    }
    let context = jetstream::new(options.connect(&args.server).await.map_err(connect_error)?);
    for (stream, subjects) in [("ORDERS", vec!["orders.>", "payments.>"]), ("DLQ", vec!["dlq.>"])] {
        let config = jetstream::stream::Config {
            name: stream.to_owned(),
            subjects: subjects.into_iter().map(str::to_owned).collect(),
            ..jetstream::stream::Config::default()
        };
        let created = context.get_or_create_stream(config).await;
        created.map_err(|error| Error::Stream { stream, error: error.to_string() })?;
    }
    Ok(())
}

fn write(args: &Args, summary: &Summary) -> Result<(), Error> {
    let json = serde_json::to_string(summary).map_err(std::io::Error::from)?;
    if let Some(path) = &args.summary {
        std::fs::write(path, &json)?;
    }
    if args.summary_json {
        println!("{json}");
    }
    Ok(())
}

/// Keeps the rate and tells how far it is.
struct Progress {
    started: Instant,
    count: u32,
    sent: u32,
    told: Instant,
}

impl Progress {
    fn start(count: u32) -> Self {
        let now = Instant::now();
        Self { started: now, count, sent: 0, told: now }
    }

    /// Waits until the next message is due. A rate of 0 is no rate.
    async fn pace(&self, rate: u32) {
        if let Some(due) = Duration::from_secs(self.sent.into()).checked_div(rate) {
            tokio::time::sleep(due.saturating_sub(self.started.elapsed())).await;
        }
    }

    fn sent(&mut self) {
        self.sent += 1;
        if self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            eprintln!("published {} of {}", self.sent, self.count);
        }
    }
}
