//! The lanes of this process: the partitions that it was ever assigned, and the frontier of each while it has it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use millrace_core::{
    delivery::{Place, Receipt},
    frontier::{Commit, Frontier},
    settled_ahead::SettledAhead,
};
use tokio::sync::Notify;

use crate::metrics::Metrics;

/// Settlements after which a commit is due before its time.
const COMMIT_AFTER: u64 = 1_000;

/// The default `offset.metadata.max.bytes` of a broker.
const METADATA_BYTES_MAX: usize = 4_096;

/// Deliveries taken beyond the first unfinished one; the batch that passes it is taken whole. It costs no memory; but after a
/// crash all that the commit's metadata could not hold is delivered again.
const AHEAD_MAX: u64 = 200_000;

/// The lanes of a process. They are never removed, so a lane keeps its number; the topics' partitions bound them.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// By their numbers. Every delivery looks here, and waits for nobody.
    table: boxcar::Vec<Arc<Lane>>,
    numbers: Mutex<HashMap<(String, i32), usize>>,
    epochs: AtomicU64,
    settled: AtomicU64,
    metadata_bytes: AtomicUsize,
    /// The thread that commits.
    committer: Mutex<Option<Thread>>,
    /// Wakes the reader.
    pub(crate) news: Notify,
    /// Set when the client has failed for good.
    pub(crate) fatal: OnceLock<String>,
    pub(crate) metrics: Metrics,
}

/// A partition of a topic.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) number: u32,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// The epoch in which this process owns it, 0 while it does not.
    owned: AtomicU64,
    /// Set while too much was taken ahead of the first unfinished delivery.
    full: AtomicBool,
    held: Mutex<Option<Held>>,
    /// Nothing is at work.
    idle: Condvar,
}

/// A lane that is held.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) frontier: Frontier,
    /// What the broker was last told, `None` where it is to be told in any case.
    told: Option<Commit>,
    /// Where the log ended when the client last reached its end; `None` while it has not, or events came after that.
    pub(crate) end_reached: EndReached,
}

/// Whether the end of the log was reached. Its last offsets may be markers that are never delivered, so the offsets alone
/// do not tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum EndReached {
    #[default]
    No,
    /// It was, and the end is not known yet.
    Yes,
    /// It was, there.
    At(i64),
}

/// A commit of one lane.
#[derive(Clone, Debug)]
pub(crate) struct LaneCommit {
    pub(crate) lane: Arc<Lane>,
    pub(crate) commit: Commit,
}

impl Lanes {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            table: boxcar::Vec::new(),
            numbers: Mutex::default(),
            epochs: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            metadata_bytes: AtomicUsize::new(METADATA_BYTES_MAX),
            committer: Mutex::default(),
            news: Notify::new(),
            fatal: OnceLock::new(),
            metrics,
        }
    }

    /// The lane of a partition.
    pub(crate) fn lane(&self, topic: &str, partition: i32) -> Arc<Lane> {
        // Held while one is added, so that each has the number of its place.
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (topic.to_owned(), partition);
        if let Some(lane) = numbers.get(&key).and_then(|number| self.table.get(*number)) {
            return Arc::clone(lane);
        }
        let number = u32::try_from(self.table.count()).unwrap_or(u32::MAX);
        let lane = Arc::new(Lane {
            number,
            topic: topic.into(),
            partition,
            owned: AtomicU64::new(0),
            full: AtomicBool::new(false),
            held: Mutex::default(),
            idle: Condvar::new(),
        });
        numbers.insert(key, self.table.push(Arc::clone(&lane)));
        lane
    }

    /// The place that a receipt is for and its lane, if there is one.
    fn find<'receipt>(&self, receipt: &'receipt Receipt) -> Option<(&'receipt Place, &Lane)> {
        let place = place_of(receipt)?;
        Some((place, self.table.get(usize::try_from(place.lane).ok()?)?))
    }

    /// All lanes that are held now.
    pub(crate) fn held(&self) -> Vec<Arc<Lane>> {
        self.table.iter().map(|(_, lane)| lane).filter(|lane| lane.held().is_some()).cloned().collect()
    }

    /// A number that no assignment had before.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Whether this process still owns what a receipt is for.
    pub(crate) fn owns(&self, receipt: &Receipt) -> bool {
        self.find(receipt).is_some_and(|(place, lane)| lane.owned.load(Ordering::Acquire) == place.epoch)
    }

    /// Notes that deliveries are settled.
    pub(crate) fn settle(&self, receipts: &[Receipt]) {
        let mut settled = 0;
        for of_lane in receipts.chunk_by(are_of_one_lane) {
            let found = of_lane.first().and_then(|first| self.find(first));
            settled += found.map_or(0, |(_, lane)| self.settle_in(lane, of_lane));
        }
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.metrics.stale.inc_by(count(receipts.len().saturating_sub(settled)));
        let before = self.settled.fetch_add(count(settled), Ordering::Relaxed);
        if before < COMMIT_AFTER && before.saturating_add(count(settled)) >= COMMIT_AFTER {
            self.wake_committer();
        }
    }

    /// How many of the deliveries were at work in this lane, and are settled by this.
    fn settle_in(&self, lane: &Lane, receipts: &[Receipt]) -> usize {
        let mut guard = lane.held();
        let Some(held) = guard.as_mut() else { return 0 };
        let settled = receipts.iter().filter_map(place_of).filter(|place| held.frontier.settle(place)).count();
        if held.frontier.at_work() == 0 {
            lane.idle.notify_all();
        }
        // Half of it must be free again before the lane is read from, or each single settlement would wake the reader.
        if lane.is_full() && held.frontier.ahead() <= AHEAD_MAX / 2 {
            lane.full.store(false, Ordering::Relaxed);
            self.news.notify_one();
        }
        settled
    }

    /// Notes that nobody here works on a delivery any more.
    pub(crate) fn let_go(&self, receipt: &Receipt) {
        // A lane that there is not has nothing to be let go of.
        let Some((place, lane)) = self.find(receipt) else { return };
        if let Some(held) = lane.held().as_mut() {
            held.frontier.let_go(place);
            if held.frontier.at_work() == 0 {
                lane.idle.notify_all();
            }
        }
    }

    /// Whether so many deliveries were settled since the last commit that the next is due before its time.
    pub(crate) fn many_are_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed) >= COMMIT_AFTER
    }

    /// Whether any delivery was settled since the last commit.
    pub(crate) fn some_are_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed) > 0
    }

    /// What is to be committed of these lanes.
    pub(crate) fn commits(&self, lanes: &[Arc<Lane>]) -> Vec<LaneCommit> {
        self.settled.store(0, Ordering::Relaxed);
        let metadata_bytes = self.metadata_bytes.load(Ordering::Relaxed);
        let mut commits = Vec::new();
        for lane in lanes {
            if let Some(held) = lane.held().as_mut() {
                let commit = held.frontier.commit(metadata_bytes);
                if held.told.as_ref() != Some(&commit) {
                    held.told = Some(commit.clone());
                    commits.push(LaneCommit { lane: Arc::clone(lane), commit });
                }
            }
        }
        commits
    }

    /// The broker takes less metadata than was sent.
    pub(crate) fn less_metadata(&self) {
        let less = |bytes: usize| Some(if bytes > 64 { bytes / 2 } else { 0 });
        self.metadata_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
    }

    /// From now on this thread commits.
    pub(crate) fn committer_is(&self, thread: Thread) {
        *self.committer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    pub(crate) fn wake_committer(&self) {
        if let Some(thread) = &*self.committer.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    /// Nothing can be read any more.
    pub(crate) fn fails_for_good(&self, reason: String) {
        self.fatal.get_or_init(|| reason);
        self.news.notify_one();
    }
}

fn place_of(receipt: &Receipt) -> Option<&Place> {
    if let Receipt::Place(place) = receipt { Some(place) } else { None }
}

fn are_of_one_lane(one: &Receipt, other: &Receipt) -> bool {
    place_of(one).map(|place| place.lane) == place_of(other).map(|place| place.lane)
}

impl Lane {
    pub(crate) fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane is this process's. `told` is what the broker has as its commit; nothing, where it is to be told.
    pub(crate) fn assign(&self, frontier: Frontier, told: Option<Commit>) {
        let epoch = frontier.epoch();
        *self.held() = Some(Held { frontier, told, end_reached: EndReached::No });
        self.full.store(false, Ordering::Relaxed);
        self.owned.store(epoch, Ordering::Release);
    }

    /// What is held after the log was cut or made anew: a new epoch from `offset` on.
    pub(crate) fn restarted(&self, epoch: u64, offset: i64) -> Held {
        self.owned.store(epoch, Ordering::Release);
        Held {
            frontier: Frontier::new(epoch, offset, SettledAhead::default()),
            told: None,
            end_reached: EndReached::No,
        }
    }

    /// What has not started is to be let go of; what is at work may still end.
    pub(crate) fn disown(&self) {
        self.owned.store(0, Ordering::Release);
    }

    /// Waits until nothing of the lane is at work, or the deadline. Whether nothing is.
    pub(crate) fn wait_until_idle(&self, deadline: Instant) -> bool {
        let mut held = self.held();
        while held.as_ref().is_some_and(|held| held.frontier.at_work() > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            held = self.idle.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The lane is this process's no longer.
    pub(crate) fn release(&self) {
        self.disown();
        *self.held() = None;
    }

    /// Whether nothing is to be taken from the lane until more of what was taken is settled.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Notes, after something was taken, whether more may be.
    pub(crate) fn note_room(&self, held: &Held) {
        if held.frontier.ahead() >= AHEAD_MAX {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    /// The broker did not take a commit: it is sent again with the next.
    pub(crate) fn not_told(&self) {
        if let Some(held) = self.held().as_mut() {
            held.told = None;
        }
    }
}

impl Held {
    /// Events that nobody has taken yet, where the log ends at `end`.
    pub(crate) fn pending(&mut self, end: i64) -> u64 {
        if self.end_reached == EndReached::Yes {
            self.end_reached = EndReached::At(end);
        }
        let taken = match self.end_reached {
            EndReached::At(reached) => reached.max(self.frontier.taken()),
            EndReached::No | EndReached::Yes => self.frontier.taken(),
        };
        u64::try_from(end.saturating_sub(taken)).unwrap_or(0)
    }
}
