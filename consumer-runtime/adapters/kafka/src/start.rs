//! Opening a source, and where each of its lanes starts.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_core::{
    frontier::{Commit, Frontier},
    health::{Health, Part, Trouble},
    settled_ahead::SettledAhead,
    time::Clock,
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
};
use tracing::{info, warn};

use crate::{
    check,
    client::ConnectionOptions,
    context::{Client, Shared},
    lanes::Lanes,
    metrics::Metrics,
    monitor::LagProbe,
    reader::KafkaReader,
    settler::KafkaSettler,
    worker::Worker,
};

/// Tries to learn what the group has committed. After that a lane starts where the library finds its commit.
const COMMITTED_TRIES: u32 = 2;

/// Where a group starts in a partition that it has committed nothing of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InitialPosition {
    /// With the oldest event that the partition holds.
    Earliest,
    /// With the first event published after it is first assigned.
    Latest,
}

/// What to consume.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// How to connect.
    pub connection: ConnectionOptions,
    /// Topics to consume.
    pub topics: Vec<String>,
    /// The consumer group that all replicas share.
    pub group: String,
    /// Where a new group starts.
    pub initial_position: InitialPosition,
    /// The topic of dead letters. It must exist.
    pub dead_letter_topic: Option<String>,
    /// Most bytes that are fetched ahead, over all partitions.
    pub prefetch_bytes: u32,
    /// How long things may take.
    pub timing: Timing,
}

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Timing {
    /// One request.
    pub request: Duration,
    /// The time after which the broker gives the lanes of a silent member to others.
    pub session: Duration,
    /// Work in flight on a lane that is taken back.
    pub hand_over: Duration,
    /// A commit that is waited for.
    pub commit: Duration,
    /// Leaving the group.
    pub leave: Duration,
    /// Between two commits.
    pub commit_interval: Duration,
    /// Without an event though some wait, until the client is made anew.
    pub stall: Duration,
    /// Between two looks at the log's ends and at the Secrets.
    pub look: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(5),
            // Longer than a pod's network hiccup, shorter than the library's 45 s: so long do the lanes of a pod that died
            // wait.
            session: Duration::from_secs(20),
            hand_over: Duration::from_secs(2),
            commit: Duration::from_secs(2),
            leave: Duration::from_secs(1),
            commit_interval: Duration::from_secs(1),
            stall: Duration::from_secs(30),
            look: Duration::from_secs(2),
        }
    }
}

/// A source that is ready to be read.
pub struct KafkaSource {
    /// Reads it. When it is dropped, the group is left.
    pub reader: KafkaReader,
    /// Settles what was read.
    pub settler: KafkaSettler,
    /// Tells how much waits.
    pub lag: LagProbe,
}

/// Checks that brokers and topics are there, and starts to consume.
///
/// # Errors
/// `Unreachable`, `Unauthorized`, `TlsFailed`, `TopicNotFound`, `SecretMissing`, `SecretInvalid` or `Failing`, with what to
/// do.
pub async fn open(
    options: &KafkaOptions,
    clock: &Arc<dyn Clock>,
    health: &Arc<Health>,
    metrics: &Metrics,
) -> Result<KafkaSource, Trouble> {
    let partitions = check::check(options).await?.read;
    info!(topics = options.topics.join(","), group = options.group, partitions, "consuming");
    let shared = Arc::new(Shared::new(options.clone(), Lanes::new(metrics.clone()), Arc::clone(health)));
    let worker = Worker::start(Arc::clone(&shared), partitions)?;
    health.works(Part::Broker);
    Ok(KafkaSource {
        settler: KafkaSettler::new(Arc::clone(&shared), worker.requests()),
        lag: worker.lag(),
        reader: KafkaReader::new(shared, worker, Arc::clone(clock)),
    })
}

/// Where a lane starts.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: Offset,
    /// The lowest offset that may come.
    lowest: i64,
    settled_before: SettledAhead,
    /// The position is to be committed before anything is settled: a group that starts at the end must not start at a
    /// later end when the lane moves.
    pin: bool,
}

impl Start {
    pub(crate) fn frontier(&self, epoch: u64) -> Frontier {
        Frontier::new(epoch, self.lowest, self.settled_before.clone())
    }

    /// What the broker has been told.
    pub(crate) fn told(&self) -> Option<Commit> {
        (!self.pin).then(|| Commit { position: self.lowest, settled_ahead: String::new() })
    }
}

/// Where these partitions start: where the group has committed, with what it had settled above that; else at the initial
/// position.
pub(crate) fn starts(client: &Arc<Client>, partitions: &TopicPartitionList, options: &KafkaOptions) -> Vec<Start> {
    let committed = committed(client, partitions, options.timing.request);
    let known = committed.is_some();
    let partitions = committed.unwrap_or_else(|| partitions.clone());
    // For all of them: the group waits for this, and takes a member that is silent for too long for dead.
    let until = Instant::now() + options.timing.request;
    partitions
        .elements()
        .iter()
        .map(|element| {
            let (topic, partition) = (element.topic().to_owned(), element.partition());
            match element.offset() {
                Offset::Offset(position) if known => {
                    let settled_before = metadata(element)
                        .and_then(|metadata| SettledAhead::decode(&metadata, position))
                        .unwrap_or_default();
                    let offset = Offset::Offset(position);
                    Start { topic, partition, offset, lowest: position, settled_before, pin: false }
                }
                _ if known && element.error().is_ok() => {
                    initial(client, topic, partition, options.initial_position, until)
                }
                // The library looks for the commit itself, and starts at the oldest event where there is none.
                _ => {
                    let (offset, settled_before) = (Offset::Invalid, SettledAhead::default());
                    Start { topic, partition, offset, lowest: 0, settled_before, pin: false }
                }
            }
        })
        .collect()
}

fn committed(client: &Client, partitions: &TopicPartitionList, limit: Duration) -> Option<TopicPartitionList> {
    for _ in 0..COMMITTED_TRIES {
        match client.committed_offsets(partitions.clone(), limit) {
            Ok(committed) => return Some(committed),
            Err(error) => warn!(%error, "failed to read what the group has committed"),
        }
    }
    None
}

/// The start of a lane that the group has committed nothing of. Where the brokers have not said by `until` where it begins and
/// ends, the library looks for that itself.
fn initial(client: &Client, topic: String, partition: i32, position: InitialPosition, until: Instant) -> Start {
    let left = until.saturating_duration_since(Instant::now());
    let ends = if left.is_zero() { None } else { ends(client, &topic, partition, left) };
    let (offset, lowest, pin) = match (position, ends) {
        (InitialPosition::Earliest, Some((oldest, _))) => (Offset::Offset(oldest), oldest, false),
        (InitialPosition::Earliest, None) => (Offset::Beginning, 0, false),
        (InitialPosition::Latest, Some((_, end))) => (Offset::Offset(end), end, true),
        (InitialPosition::Latest, None) => (Offset::End, 0, false),
    };
    Start { topic, partition, offset, lowest, settled_before: SettledAhead::default(), pin }
}

fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    limit: Duration,
) -> Option<(i64, i64)> {
    match client.fetch_watermarks(topic, partition, limit) {
        Ok(ends) => Some(ends),
        Err(error) => {
            warn!(%error, topic, partition, "failed to ask where the partition begins and ends");
            None
        }
    }
}

/// The metadata of a commit. The library panics over what is not UTF-8, which another program may have written.
fn metadata(element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>) -> Option<String> {
    std::panic::catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).ok()
}
