//! What the client calls back: rebalances and errors. All of it runs in the thread that polls.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millrace_core::health::Health;
use millrace_kafka_queue::RecordQueue;
use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    types::RDKafkaRespErr,
};
use tracing::{info, warn};

use crate::{
    commit::Committer,
    lanes::{Lane, Lanes},
    start::{self, KafkaOptions},
    trouble::LastFailure,
};

pub(crate) type Client = BaseConsumer<Context>;

/// What outlives a client: it may be made anew.
pub(crate) struct Shared {
    pub(crate) options: KafkaOptions,
    pub(crate) lanes: Lanes,
    pub(crate) health: Arc<Health>,
    pub(crate) failure: LastFailure,
    /// Where the reader takes from.
    sources: Mutex<Vec<Source>>,
    /// Set when the reader has gone: nothing of it is at work any more, and nothing is waited for.
    pub(crate) leaving: AtomicBool,
}

/// The queue of a lane.
pub(crate) struct Source {
    pub(crate) lane: Arc<Lane>,
    pub(crate) queue: RecordQueue<Context>,
}

/// What one client calls back.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    client: OnceLock<Weak<Client>>,
    committer: OnceLock<Committer>,
}

impl Shared {
    pub(crate) fn new(options: KafkaOptions, lanes: Lanes, health: Arc<Health>) -> Self {
        let (failure, sources) = (LastFailure::default(), Mutex::default());
        Self { options, lanes, health, failure, sources, leaving: AtomicBool::new(false) }
    }

    pub(crate) fn sources(&self) -> MutexGuard<'_, Vec<Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, client: OnceLock::new(), committer: OnceLock::new() }
    }

    /// The client that this belongs to.
    pub(crate) fn belongs_to(&self, client: &Arc<Client>) -> io::Result<()> {
        let client = Weak::clone(self.client.get_or_init(|| Arc::downgrade(client)));
        let committer = Committer::start(Arc::clone(&self.shared), client)?;
        self.committer.get_or_init(|| committer);
        Ok(())
    }

    /// What commits; there from before the first event on.
    pub(crate) fn committer(&self) -> Option<&Committer> {
        self.committer.get()
    }

    /// Commits what there is of these lanes, and waits for the broker's word.
    pub(crate) fn commit_now(&self, lanes: &[Arc<Lane>]) -> Result<(), String> {
        let committer = self.committer().ok_or_else(|| "the client is not ready".to_owned())?;
        committer.commit_within(self.shared.lanes.commits(lanes), self.shared.options.timing.commit)
    }

    fn assign(&self, partitions: &TopicPartitionList) {
        let Some(client) = self.client.get().and_then(Weak::upgrade) else { return };
        let lanes = &self.shared.lanes;
        let mut assignment = TopicPartitionList::new();
        for start in start::starts(&client, partitions, &self.shared.options) {
            let lane = lanes.lane(&start.topic, start.partition);
            // The queue is there before the first event is, so that none goes elsewhere.
            let Some(mut queue) = RecordQueue::split(&client, &start.topic, start.partition) else { continue };
            let news = Arc::downgrade(&self.shared);
            queue.set_nonempty_callback(move || {
                if let Some(shared) = news.upgrade() {
                    shared.lanes.news.notify_one();
                }
            });
            lane.assign(start.frontier(lanes.next_epoch()), start.told());
            info!(topic = start.topic, partition = start.partition, offset = ?start.offset, "lane assigned");
            if let Err(error) = assignment.add_partition_offset(&start.topic, start.partition, start.offset) {
                warn!(%error, topic = start.topic, partition = start.partition, "failed to set the first offset");
            }
            self.shared.sources().push(Source { lane, queue });
        }
        if let Err(error) = client.incremental_assign(&assignment) {
            lanes.fails_for_good(format!("failed to take partitions: {error}"));
        }
    }

    fn revoke(&self, partitions: &TopicPartitionList) {
        let Some(client) = self.client.get().and_then(Weak::upgrade) else { return };
        let lost = client.assignment_lost();
        let lanes: Vec<Arc<Lane>> = partitions
            .elements()
            .iter()
            .map(|element| self.shared.lanes.lane(element.topic(), element.partition()))
            .collect();
        for lane in &lanes {
            lane.disown();
        }
        let (gone, kept) = std::mem::take(&mut *self.shared.sources())
            .into_iter()
            .partition(|source| lanes.iter().any(|lane| lane.number == source.lane.number));
        *self.shared.sources() = kept;
        drop::<Vec<Source>>(gone);
        if lost {
            // Another member has them already: a commit could only undo its own.
            warn!(lanes = lanes.len(), "lanes lost: what is at work here is at work elsewhere too");
        } else {
            self.hand_over(&lanes);
        }
        for lane in &lanes {
            lane.release();
        }
        if let Err(error) = client.incremental_unassign(partitions) {
            self.shared.lanes.fails_for_good(format!("failed to give partitions back: {error}"));
        }
    }

    /// Lets what is at work end, for a short time, and commits.
    fn hand_over(&self, lanes: &[Arc<Lane>]) {
        let timing = &self.shared.options.timing;
        let patience = if self.shared.leaving.load(Ordering::Acquire) { Duration::ZERO } else { timing.hand_over };
        let deadline = Instant::now() + patience;
        let at_work = lanes.iter().filter(|lane| !lane.wait_until_idle(deadline)).count();
        info!(lanes = lanes.len(), at_work, "lanes handed over");
        if let Err(error) = self.commit_now(lanes) {
            warn!(error, "failed to commit lanes that are handed over: the next reader gets some of it again");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.shared.failure.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.shared.failure.error(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, _client: &Client, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        self.shared.lanes.metrics.rebalances.inc();
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(partitions);
        } else {
            self.revoke(partitions);
        }
        self.shared.lanes.news.notify_one();
    }
}
