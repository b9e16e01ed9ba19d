//! Claims in a file of this process, on a volume that outlives it.

mod table;
mod writer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use millrace_core::{
    claim::{Record, Wish},
    health::{Trouble, TroubleReason},
    key::Key,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
    time::Clock,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::embedded::writer::{Job, Reply, Work, Writer};

/// Requests that wait for the writer: two of its transactions. Who comes then waits for room.
const QUEUE_MAX: usize = 1024;

/// The file that claims are kept in.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Its path.
    pub path: PathBuf,
    /// How long a done event is remembered.
    pub retention: Duration,
    /// The time that one request may take.
    pub request_timeout: Duration,
}

/// Claims in a file of this process.
///
/// # Guarantees
/// What is answered is on the disk (fsync), and a crash at any point leaves a file that opens. One process at a time has
/// the file open. Time is the file's own: it goes on with the monotonic clock and never back. So a claim whose process is
/// gone has ended, and can be taken over at once by the next process that opens the file.
///
/// # Caveats
/// The file keeps the largest size that it had; room of forgotten events is used again.
pub struct EmbeddedStore {
    jobs: mpsc::Sender<Job>,
    request_timeout: Duration,
}

impl EmbeddedStore {
    /// Opens the file, and makes it when it does not exist.
    ///
    /// # Errors
    /// `Failing` when it cannot be opened, when another process has it open among others.
    pub async fn open(options: &EmbeddedOptions, clock: Arc<dyn Clock>) -> Result<Self, Trouble> {
        let (sender, jobs) = mpsc::channel(QUEUE_MAX);
        let (opened, opening) = oneshot::channel();
        let (path, retention) = (options.path.clone(), options.retention);
        // A thread of its own: it waits for the disk, which no task may. It ends with the store.
        let thread = std::thread::Builder::new().name("claims".to_owned());
        let started = thread.spawn(move || {
            let (writer, outcome) = match Writer::open(path, retention, clock) {
                Ok(writer) => (Some(writer), Ok(())),
                Err(trouble) => (None, Err(trouble)),
            };
            if let (Ok(()), Some(writer)) = (opened.send(outcome), writer) {
                writer.run(jobs);
            }
        });
        let failing = |message: String| Trouble::new(TroubleReason::Failing, message);
        started.map_err(|error| failing(format!("failed to start the writer of the claims: {error}")))?;
        opening.await.map_err(|_| failing("the writer of the claims ended while it opened its file".to_owned()))??;
        Ok(Self { jobs: sender, request_timeout: options.request_timeout })
    }

    async fn ask(&self, work: Work) -> Result<Reply, StoreError> {
        let ended = || StoreError::Unavailable("the writer of the claims has ended".to_owned());
        let (answer, mut reply) = oneshot::channel();
        let asked = async {
            self.jobs.send(Job { work, answer }).await.map_err(|_| ended())?;
            (&mut reply).await.map_err(|_| ended())?
        };
        if let Ok(answered) = timeout(self.request_timeout, asked).await {
            return answered;
        }
        // From here on the writer knows that nobody waits. An answer that it gave just before is not lost.
        reply.close();
        reply.try_recv().unwrap_or_else(|_| {
            Err(StoreError::Unavailable(format!("the disk does not answer within {:?}", self.request_timeout)))
        })
    }
}

#[async_trait]
impl IdempotencyStore for EmbeddedStore {
    async fn claim(&self, key: &Key, wish: &Wish) -> Result<Claim, StoreError> {
        match self.ask(Work::Claim { key: *key.as_bytes(), wish: *wish }).await? {
            Reply::Claim(claim) => Ok(claim),
            Reply::Done => Err(StoreError::Unavailable("the answer is to another question".to_owned())),
        }
    }

    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError> {
        self.ask(Work::End { key: *key.as_bytes(), token: claim.token, record: *record }).await.map(drop)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ask(Work::Ping).await.map(drop)
    }

    fn is_durable(&self) -> bool {
        true
    }
}
