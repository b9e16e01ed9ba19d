//! What is checked before anything is consumed: that brokers answer, let this side in, and have the topics.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use millrace_core::health::{Trouble, TroubleReason};
use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::oneshot;

use crate::{start::KafkaOptions, trouble, trouble::LastFailure};

/// The time after which a destruction that does not end is left to itself.
const DESTRUCTION: Duration = Duration::from_secs(3);

/// The time that one request waits before the library's events are served.
const SLICE: Duration = Duration::from_millis(500);

/// Events that are served then. The library does not say whether there are more.
const EVENTS_MAX: u32 = 100;

/// A client that is looked after by nobody: what it says of its connections is kept.
pub(crate) struct Context(pub(crate) Arc<LastFailure>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl ConsumerContext for Context {}

/// How many partitions topics have in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partitions {
    /// The topics that events are read from.
    pub(crate) read: usize,
    /// The topic of dead letters.
    pub(crate) dead_letters: usize,
}

/// Checks, and says how many partitions there are.
pub(crate) async fn check(options: &KafkaOptions) -> Result<Partitions, Trouble> {
    let (sender, receiver) = oneshot::channel();
    let options = options.clone();
    let failed = |error: &dyn std::fmt::Display| {
        Trouble::new(TroubleReason::Failing, format!("failed to check the brokers: {error}"))
    };
    let checking = thread::Builder::new().name("kafka check".to_owned()).spawn(move || {
        // Nobody may be waiting any more.
        drop(sender.send(check_now(&options)));
    });
    checking.map_err(|error| failed(&error))?;
    receiver.await.map_err(|error| failed(&error))?
}

fn check_now(options: &KafkaOptions) -> Result<Partitions, Trouble> {
    let failure = Arc::new(LastFailure::default());
    let config = options.connection.client_config()?;
    let client = BaseConsumer::from_config_and_context(&config, Context(Arc::clone(&failure))).map_err(|error| {
        let (reason, what) = match &options.connection.tls {
            Some(_) => (TroubleReason::SecretInvalid, "the Secrets of broker.kafka.tls cannot be used"),
            None => (TroubleReason::Failing, "failed to make a client"),
        };
        Trouble::new(reason, format!("{what}: {error}"))
    })?;
    // The topics share the time. It is longer than a request's: the first connection is made in it.
    let deadline = Instant::now() + options.timing.request * 2;
    let count = |topics: &[String]| -> Result<usize, Trouble> {
        topics.iter().map(|topic| partitions_of(&client, &failure, options, topic, deadline)).sum()
    };
    let dead_letters = options.dead_letter_topic.as_slice();
    let checked = count(&options.topics).and_then(|read| Ok(Partitions { read, dead_letters: count(dead_letters)? }));
    destroy(client);
    checked
}

fn partitions_of(
    client: &BaseConsumer<Context>,
    failure: &LastFailure,
    options: &KafkaOptions,
    topic: &str,
    deadline: Instant,
) -> Result<usize, Trouble> {
    let metadata =
        answer(client, failure, topic, deadline).map_err(|error| failure.trouble(&options.connection, &error))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let code = found.and_then(rdkafka::metadata::MetadataTopic::error).map(RDKafkaErrorCode::from);
    match (found, code.map(|code| (code, trouble::reason(code)))) {
        (Some(found), None) => Ok(found.partitions().len()),
        (_, Some((code, Some(TroubleReason::Unauthorized)))) => Err(Trouble::new(
            TroubleReason::Unauthorized,
            format!("topic {topic:?} may not be read ({code}); grant Describe and Read, or Write for dead letters"),
        )),
        (None, _) | (_, Some((_, Some(TroubleReason::TopicNotFound)))) => {
            let use_ =
                if options.topics.iter().any(|own| own == topic) { "subjects" } else { "delivery.deadLetter.subject" };
            let message = format!("topic {topic:?} of {use_} does not exist; create it, or correct {use_}");
            Err(Trouble::new(TroubleReason::TopicNotFound, message))
        }
        (_, Some((code, _))) => Err(Trouble::new(TroubleReason::Failing, format!("topic {topic:?}: {code}"))),
    }
}

/// The metadata of a topic. The library says why there is none only when its events are served, so it waits in slices.
fn answer(
    client: &BaseConsumer<Context>,
    failure: &LastFailure,
    topic: &str,
    deadline: Instant,
) -> Result<rdkafka::metadata::Metadata, KafkaError> {
    loop {
        let answer = client.fetch_metadata(Some(topic), SLICE);
        for _ in 0..EVENTS_MAX {
            client.poll(Duration::ZERO);
        }
        match answer {
            // Brokers that refuse this side do not change their minds.
            Err(error) if failure.is_refusal() || Instant::now() >= deadline => return Err(error),
            Err(_) => {}
            Ok(metadata) => return Ok(metadata),
        }
    }
}

/// Destroys a client, and waits for that a bounded time.
pub(crate) fn destroy(client: BaseConsumer<Context>) {
    let (sender, receiver) = mpsc::sync_channel::<()>(1);
    let destroying = thread::Builder::new().name("kafka check".to_owned()).spawn(move || {
        drop(client);
        drop(sender);
    });
    if destroying.is_ok() {
        // It may have ended or not: nothing depends on it.
        receiver.recv_timeout(DESTRUCTION).ok();
    }
}
