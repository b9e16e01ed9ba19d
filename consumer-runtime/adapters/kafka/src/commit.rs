//! Commits: one after the other, in a thread that waits for the broker's word on each.
//!
//! The library would also commit without waiting, but then repeats a commit that failed for a moment, perhaps after a later
//! one, and tells nobody how it ended.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, TrySendError},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};
use tracing::{debug, warn};

use crate::{
    context::{Client, Shared},
    lanes::LaneCommit,
};

/// Commits that may wait: that of the interval, that of a flush, and that of a rebalance.
const JOBS_MAX: usize = 4;

/// Commits for one client.
#[derive(Debug)]
pub(crate) struct Committer {
    jobs: mpsc::SyncSender<Job>,
    busy: Arc<AtomicBool>,
}

struct Job {
    commits: Vec<LaneCommit>,
    ended: Option<mpsc::SyncSender<Result<(), String>>>,
}

impl Committer {
    /// Starts the thread. It ends with this value.
    pub(crate) fn start(shared: Arc<Shared>, client: Weak<Client>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel::<Job>(JOBS_MAX);
        let busy = Arc::new(AtomicBool::new(false));
        thread::Builder::new().name("kafka commit".to_owned()).spawn({
            let busy = Arc::clone(&busy);
            move || {
                while let Ok(job) = receiver.recv() {
                    let Some(client) = client.upgrade() else { return };
                    let ended = commit(&shared, &client, &job.commits);
                    drop(client);
                    busy.store(false, Ordering::Release);
                    shared.lanes.wake_committer();
                    if let Some(waiting) = job.ended {
                        // It may have waited long enough.
                        waiting.try_send(ended).ok();
                    }
                }
            }
        })?;
        Ok(Self { jobs: sender, busy })
    }

    /// Whether a commit that nobody waits for is on its way.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Commits without waiting. The caller has asked whether it is busy.
    pub(crate) fn commit(&self, commits: Vec<LaneCommit>) {
        if commits.is_empty() {
            return;
        }
        self.busy.store(true, Ordering::Release);
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
            self.jobs.try_send(Job { commits, ended: None })
        {
            self.busy.store(false, Ordering::Release);
            not_told(&job.commits);
        }
    }

    /// Commits and waits for the broker's word, for at most `limit`: the library itself waits without an end.
    pub(crate) fn commit_within(&self, commits: Vec<LaneCommit>, limit: Duration) -> Result<(), String> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let lanes: Vec<_> = commits.iter().map(|commit| Arc::clone(&commit.lane)).collect();
        let sent = self.jobs.try_send(Job { commits, ended: Some(sender) });
        let ended = match sent {
            Ok(()) => {
                receiver.recv_timeout(limit).unwrap_or_else(|_| Err("the broker did not confirm in time".to_owned()))
            }
            Err(_) => Err("earlier commits are not confirmed yet".to_owned()),
        };
        if ended.is_err() {
            for lane in lanes {
                lane.not_told();
            }
        }
        ended
    }
}

/// A refusal ends nothing, and is not repeated as it was: the next commit says what is right then, of the lanes that are
/// held then.
fn commit(shared: &Shared, client: &Client, commits: &[LaneCommit]) -> Result<(), String> {
    if commits.is_empty() {
        return Ok(());
    }
    let Err(error) = list(commits).and_then(|list| client.commit(&list, CommitMode::Sync)) else { return Ok(()) };
    shared.lanes.metrics.commit_failures.inc();
    not_told(commits);
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::OffsetMetadataTooLarge) => shared.lanes.less_metadata(),
        Some(
            RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::UnknownMemberId,
        ) => debug!(%error, "a commit of an assignment that ends was refused"),
        _ => warn!(error = %error_text(&error), "commit refused"),
    }
    Err(error.to_string())
}

fn not_told(commits: &[LaneCommit]) {
    for commit in commits {
        commit.lane.not_told();
    }
}

fn error_text(error: &KafkaError) -> String {
    error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string())
}

/// The commits as the client library takes them.
fn list(commits: &[LaneCommit]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for LaneCommit { lane, commit } in commits {
        let mut partition = list.add_partition(&lane.topic, lane.partition);
        partition.set_offset(Offset::Offset(commit.position))?;
        if !commit.settled_ahead.is_empty() {
            partition.set_metadata(&commit.settled_ahead);
        }
    }
    Ok(list)
}
