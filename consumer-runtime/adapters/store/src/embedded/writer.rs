//! The thread that has the file open. It takes what has come meanwhile into one transaction, and answers all of it when
//! that is durable: one fsync for as many events as wait for it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use millrace_core::{
    claim::{Record, Wish},
    health::{Trouble, TroubleReason},
    ports::{Claim, StoreError},
    time::{Clock, Monotonic},
};
use redb::{Database, DatabaseError, StorageError};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::embedded::table::{self, Progress, RawKey, Step};

/// Requests of one transaction. Past some hundreds the fsync no longer shows, and all of them wait for the last.
const BATCH_MAX: usize = 512;

/// Memory for pages of the file. The whole of a small file; of a large one the upper levels of its tree.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Claims that nobody heard of and that are remembered. As many as can be in flight when the disk fails.
const UNDELIVERED_MAX: usize = 8192;

/// Records forgotten for each one written: more than one, so that what is old does not pile up.
const FORGOTTEN_PER_WRITE: usize = 2;

/// What is asked of the writer.
#[derive(Debug)]
pub(super) enum Work {
    /// A claim.
    Claim { key: RawKey, wish: Wish },
    /// The end of a claim.
    End { key: RawKey, token: u64, record: Record },
    /// A write that changes nothing.
    Ping,
}

/// What the writer answers.
#[derive(Debug)]
pub(super) enum Reply {
    Claim(Claim),
    Done,
}

/// Something asked, and where to answer.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) answer: oneshot::Sender<Result<Reply, StoreError>>,
}

/// The file, and what is known of it.
pub(super) struct Writer {
    path: PathBuf,
    retention: Duration,
    clock: Arc<dyn Clock>,
    /// Nothing after an error, until the file is opened again: the library refuses to go on with it.
    database: Option<Database>,
    progress: Progress,
    /// A moment, by the store's own time and by the clock.
    began: (Timestamp, Monotonic),
    /// Tokens of claims that were written, or perhaps written, while nobody waited for the answer.
    undelivered: HashMap<RawKey, u64>,
}

impl Writer {
    /// Opens the file, and makes it when it does not exist. After a crash this repairs it.
    pub(super) fn open(path: PathBuf, retention: Duration, clock: Arc<dyn Clock>) -> Result<Self, Trouble> {
        let failing = |error: redb::Error| Trouble::new(TroubleReason::Failing, explain(&path, &error));
        let database = open(&path).map_err(|error| failing(error.into()))?;
        let progress = table::begin(&database).map_err(failing)?;
        let latest = i64::try_from(progress.latest).ok().and_then(|time| Timestamp::from_millisecond(time).ok());
        // The wall clock may have been set back since the file was written.
        let began = (clock.wall().max(latest.unwrap_or(Timestamp::MIN)), clock.monotonic());
        let undelivered = HashMap::new();
        Ok(Self { path, retention, clock, database: Some(database), progress, began, undelivered })
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        while let Some(first) = jobs.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH_MAX
                && let Ok(next) = jobs.try_recv()
            {
                batch.push(next);
            }
            // Who waits no longer gets no claim that he would never hear of.
            batch.retain(|job| !job.answer.is_closed());
            self.carry_out(&mut batch);
        }
    }

    fn carry_out(&mut self, batch: &mut Vec<Job>) {
        match self.try_batch(batch) {
            Ok(replies) => {
                for (job, reply) in batch.drain(..).zip(replies) {
                    self.deliver(job, reply);
                }
            }
            Err(error) => {
                let problem = explain(&self.path, &error);
                warn!(problem, "the claims cannot be written");
                self.database = None;
                for job in batch.drain(..) {
                    // Gone already if nobody waits.
                    drop(job.answer.send(Err(StoreError::Unavailable(problem.clone()))));
                }
            }
        }
    }

    /// All of the batch in one transaction, durable when this returns.
    fn try_batch(&mut self, batch: &[Job]) -> Result<Vec<Result<Reply, StoreError>>, redb::Error> {
        let now = self.now();
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path).inspect(|_| info!("the file of the claims is open again"))?,
        };
        let transaction = self.database.insert(database).begin_write()?;
        let mut step = Step::begin(&transaction, &mut self.progress, now, self.retention)?;
        let mut replies = Vec::with_capacity(batch.len());
        let (mut probes, mut claimed) = (false, Vec::new());
        for job in batch {
            replies.push(match &job.work {
                Work::Claim { key, wish } => {
                    let claim = step.claim(key, wish, self.undelivered.get(key).copied())?;
                    if let Ok(Claim::Claimed(held)) = &claim {
                        claimed.push((*key, held.token));
                    }
                    claim.map(Reply::Claim)
                }
                Work::End { key, token, record } => step.end(key, *token, record)?.map(|()| Reply::Done),
                Work::Ping => {
                    probes = true;
                    Ok(Reply::Done)
                }
            });
        }
        if step.written == 0 && !probes {
            drop(step);
            transaction.abort()?;
            return Ok(replies);
        }
        step.forget(step.written.saturating_mul(FORGOTTEN_PER_WRITE))?;
        step.finish()?;
        drop(step);
        // From here on the claims may be written, whatever is known of it.
        if let Err(error) = transaction.commit() {
            for (key, token) in claimed {
                self.remember(key, token);
            }
            return Err(error.into());
        }
        Ok(replies)
    }

    fn deliver(&mut self, job: Job, reply: Result<Reply, StoreError>) {
        let claim = match (&job.work, &reply) {
            (Work::Claim { key, .. }, Ok(Reply::Claim(Claim::Claimed(claimed)))) => Some((*key, claimed.token)),
            _ => None,
        };
        let delivered = job.answer.send(reply).is_ok();
        match claim {
            Some((key, token)) if !delivered => self.remember(key, token),
            Some((key, _)) if !self.undelivered.is_empty() => drop(self.undelivered.remove(&key)),
            Some(_) | None => {}
        }
    }

    fn remember(&mut self, key: RawKey, token: u64) {
        if self.undelivered.len() < UNDELIVERED_MAX {
            self.undelivered.insert(key, token);
        }
    }

    /// The store's time: the wall clock's when the file was opened, carried on by the monotonic clock.
    fn now(&self) -> Timestamp {
        let (wall, monotonic) = self.began;
        wall.checked_add(self.clock.monotonic().since(monotonic)).unwrap_or(Timestamp::MAX)
    }
}

fn open(path: &Path) -> Result<Database, DatabaseError> {
    if !path.try_exists().map_err(StorageError::from)? {
        make(path)?;
    }
    Database::builder().set_cache_size(CACHE_BYTES).open(path)
}

/// Makes an empty file, under another name until it is whole: one whose making a crash cut short would never open.
fn make(path: &Path) -> Result<(), DatabaseError> {
    let unfinished = path.with_extension("unfinished");
    let put_in_place = || {
        // A link, because it does not replace what another process may have put there meanwhile.
        allow(fs::hard_link(&unfinished, path), ErrorKind::AlreadyExists)?;
        fs::remove_file(&unfinished)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    allow(fs::remove_file(&unfinished), ErrorKind::NotFound).map_err(StorageError::from)?;
    drop(Database::create(&unfinished)?);
    Ok(put_in_place().map_err(StorageError::from)?)
}

/// The outcome, where this kind of error is none.
fn allow(outcome: io::Result<()>, kind: ErrorKind) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == kind { Ok(()) } else { Err(error) })
}

/// What is wrong with the file and what to do.
fn explain(path: &std::path::Path, error: &redb::Error) -> String {
    let path = path.display();
    match error {
        redb::Error::DatabaseAlreadyOpen => {
            format!("{path} is open in another process; it is opened here when that has ended")
        }
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            format!("the volume of {path} is full; give idempotency.store.embedded.volumeClaim a larger size")
        }
        error => format!("failed to use {path}: {error}"),
    }
}
