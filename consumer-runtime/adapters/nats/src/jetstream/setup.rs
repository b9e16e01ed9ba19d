//! Finding the stream and making the durable.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, PriorityPolicy, pull},
    context::{ConsumerInfoErrorKind, GetStreamByNameErrorKind, GetStreamErrorKind},
    stream::{self, ConsumerErrorKind, RetentionPolicy, Stream},
};
use millrace_core::{
    health::{Health, Part, Trouble, TroubleReason},
    kept::Kept,
    time::Clock,
};
use tracing::info;

use crate::{
    connection::Connection,
    jetstream::{
        acks::Acks,
        lag::LagProbe,
        pin::{GROUP, Pinned},
        reader::JetStreamReader,
        settler::JetStreamSettler,
        unreadable::Lookout,
    },
};

/// Deliveries that all replicas of a consumer together may hold. The server's default, 1,000, would be one replica's
/// window; each replica bounds its own.
const MAX_ACK_PENDING: i64 = 65_536;

/// Where a new durable starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InitialPosition {
    /// With the oldest event of the stream.
    All,
    /// With the first event published after it is made.
    New,
}

/// What to consume.
#[derive(Clone, Debug)]
pub struct JetStreamOptions {
    /// The stream, `None` to find it by the first subject.
    pub stream: Option<String>,
    /// The durable that all replicas share.
    pub durable: String,
    /// Subjects to consume.
    pub subjects: Vec<String>,
    /// Where a new durable starts.
    pub initial_position: InitialPosition,
    /// How long the server waits for a settlement.
    pub ack_wait: Duration,
    /// Whether one reader at a time gets all events, in order.
    pub in_order: bool,
    /// The subject of dead letters. A stream must cover it.
    pub dead_letter_subject: Option<String>,
}

/// A source that is ready to be read.
pub struct JetStreamSource {
    /// Reads it.
    pub reader: JetStreamReader,
    /// Settles what was read.
    pub settler: JetStreamSettler,
    /// Tells how much waits.
    pub lag: LagProbe,
    /// The stream.
    pub stream: String,
    /// How long the stream keeps an event that is handled.
    pub kept: Kept,
}

fn kept_by(config: &stream::Config) -> Kept {
    match config.retention {
        RetentionPolicy::Interest | RetentionPolicy::WorkQueue => Kept::UntilAcked,
        RetentionPolicy::Limits if config.max_age.is_zero() => Kept::Forever,
        RetentionPolicy::Limits => Kept::For(config.max_age),
    }
}

/// Finds the stream and makes the durable.
///
/// # Errors
/// `StreamNotFound`, `DeadLetterStreamNotFound`, `DurableConflict`, `Unauthorized` or `Failing`, with what to do.
pub async fn set_up(
    connection: &Connection,
    options: &JetStreamOptions,
    clock: &Arc<dyn Clock>,
    health: &Arc<Health>,
) -> Result<JetStreamSource, Trouble> {
    let durable = Durable { connection: connection.clone(), options: options.clone() };
    let found = durable.prepare().await?;
    let (stream, kept) = (found.name.clone(), kept_by(&found));
    info!(stream, durable = options.durable, "consuming");
    health.works(Part::Broker);
    let pinned = options.in_order.then(|| Pinned::new(connection.clone(), &stream, &options.durable));
    let acks = Arc::new(Acks::new(connection.clone(), options.ack_wait));
    let settler = JetStreamSettler::new(connection.clone(), options.ack_wait, Arc::clone(&acks), pinned.clone());
    let lag = LagProbe::new(connection.clone(), &stream, &options.durable, options.dead_letter_subject.clone());
    let lookout = Lookout::new(connection.clone(), &stream, &options.durable, &options.subjects);
    let reader =
        JetStreamReader::new(durable, stream.clone(), acks, pinned, lookout, Arc::clone(clock), Arc::clone(health));
    Ok(JetStreamSource { reader, settler, lag, stream, kept })
}

/// A durable that can be made, and made again.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub(crate) connection: Connection,
    pub(crate) options: JetStreamOptions,
}

impl Durable {
    /// Checks the streams, makes or updates the durable, and returns how the stream is set up.
    pub(crate) async fn prepare(&self) -> Result<stream::Config, Trouble> {
        let mut context = jetstream::new(self.connection.client.clone());
        context.set_timeout(self.connection.request_timeout);
        if self.options.in_order {
            self.check_version()?;
        }
        let stream = self.find_stream(&context).await?;
        self.check_dead_letter_stream(&context).await?;
        self.make(&stream).await?;
        Ok(stream.cached_info().config.clone())
    }

    /// To keep an order a durable must be able to start again behind what is settled.
    fn check_version(&self) -> Result<(), Trouble> {
        let version = self.connection.client.server_info().version;
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
        if (numbers.next(), numbers.next()) >= (Some(2), Some(14)) {
            return Ok(());
        }
        let message = format!(
            "ordering needs NATS Server 2.14 or newer, and this is {version}; update it, or use ordering: Unordered"
        );
        Err(Trouble::new(TroubleReason::Unsupported, message))
    }

    pub(crate) async fn find_stream(&self, context: &jetstream::Context) -> Result<Stream, Trouble> {
        let name = match &self.options.stream {
            Some(name) => name.clone(),
            None => self.stream_of_subjects(context).await?,
        };
        context.get_stream(&name).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(server) if server.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                let message = format!("stream {name:?} does not exist; create it, or correct broker.jetStream.stream");
                Trouble::new(TroubleReason::StreamNotFound, message)
            }
            _ => self.failing("failed to look up the stream", &error),
        })
    }

    async fn stream_of_subjects(&self, context: &jetstream::Context) -> Result<String, Trouble> {
        let Some(subject) = self.options.subjects.first() else {
            return Err(Trouble::new(TroubleReason::StreamNotFound, "no subject is given"));
        };
        context.stream_by_subject(subject).await.map_err(|error| match error.kind() {
            GetStreamByNameErrorKind::NotFound => {
                let message = format!("no stream covers subject {subject:?}; create one, or correct subjects");
                Trouble::new(TroubleReason::StreamNotFound, message)
            }
            _ => self.failing("failed to look up the stream", &error),
        })
    }

    async fn check_dead_letter_stream(&self, context: &jetstream::Context) -> Result<(), Trouble> {
        let Some(subject) = &self.options.dead_letter_subject else { return Ok(()) };
        context.stream_by_subject(subject).await.map(drop).map_err(|error| match error.kind() {
            GetStreamByNameErrorKind::NotFound => {
                let message = format!("no stream covers the dead-letter subject {subject:?}; create one, so that a dead letter can be confirmed");
                Trouble::new(TroubleReason::DeadLetterStreamNotFound, message)
            }
            _ => self.failing("failed to look up the dead-letter stream", &error),
        })
    }

    /// Makes the durable, or brings an existing one up to date. Where it started is not changed.
    async fn make(&self, stream: &Stream) -> Result<(), Trouble> {
        let durable = &self.options.durable;
        let existing = match stream.consumer_info(durable).await {
            Ok(info) => Some(info.config.deliver_policy),
            Err(error) => match error.kind() {
                ConsumerInfoErrorKind::NotFound => None,
                _ => return Err(self.failing("failed to look up the durable", &error)),
            },
        };
        let config = self.config(existing);
        stream.create_consumer(config).await.map(drop).map_err(|error| match error.kind() {
            ConsumerErrorKind::JetStream(server) if !is_outage(server.error_code()) => {
                let message = format!("durable {durable:?} cannot be made or updated: {server}; choose another queueGroup or delete the durable");
                Trouble::new(TroubleReason::DurableConflict, message)
            }
            _ => self.failing("failed to make the durable", &error),
        })
    }

    fn config(&self, existing: Option<DeliverPolicy>) -> pull::Config {
        let options = &self.options;
        let start = match options.initial_position {
            InitialPosition::All => DeliverPolicy::All,
            InitialPosition::New => DeliverPolicy::New,
        };
        let (filter_subject, filter_subjects) = match options.subjects.as_slice() {
            [one] => (one.clone(), Vec::new()),
            several => (String::new(), several.to_vec()),
        };
        pull::Config {
            durable_name: Some(options.durable.clone()),
            deliver_policy: existing.unwrap_or(start),
            ack_policy: AckPolicy::Explicit,
            ack_wait: options.ack_wait,
            // Attempts are counted by us: an event must reach the dead letters and not vanish at the server.
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            filter_subject,
            filter_subjects,
            priority_policy: if options.in_order { PriorityPolicy::PinnedClient } else { PriorityPolicy::None },
            priority_groups: options.in_order.then(|| GROUP.to_owned()).into_iter().collect(),
            // The pin passes on when its holder has not been heard of for as long as an event waits for its settlement.
            priority_timeout: if options.in_order { options.ack_wait } else { Duration::ZERO },
            ..pull::Config::default()
        }
    }

    pub(crate) fn failing(&self, what: &str, error: &(dyn std::error::Error + 'static)) -> Trouble {
        self.connection.trouble_or(Trouble::new(TroubleReason::Failing, format!("{what}: {error}")))
    }
}

/// Whether an error code of the server speaks of its own state and not of what was asked.
fn is_outage(code: ErrorCode) -> bool {
    [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::INSUFFICIENT_RESOURCES, ErrorCode::CLUSTER_NOT_AVAILABLE]
        .contains(&code)
}
