//! An effect and the end of its claim in one transaction: both are there, or neither.

use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Transaction;
use millrace_core::{outcome::Outcome, ports::Hold};
use millrace_events::Reason;
use tracing::{debug, warn};

use crate::{
    error::{Class, DatabaseError},
    pool::Database,
};

/// Tries of one attempt, where another transaction was in the way or a commit was not confirmed. Each is rolled back
/// before the next begins.
const TRIES_MAX: u32 = 5;

/// The longest pause before such a try.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The pauses between two looks for what became of a commit.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Ends a claim as done, if it is held. It comes before the effect: whoever was taken over does no work, and whoever
/// wants to take over meanwhile waits for the lock on the row, and then finds the event done.
const DONE: &str = "
UPDATE millrace.claims
SET state = 'done', lease_until = NULL,
    expires_at = greatest(expires_at, clock_timestamp() + make_interval(secs => $3))
WHERE key = decode($1, 'hex') AND token = $2 AND state = 'claimed'";

/// What became of a claim. It waits for a transaction that still holds the row, so that its answer is final.
const LOOK: &str = "SELECT state, token FROM millrace.claims WHERE key = decode($1, 'hex') FOR SHARE";

/// What a handler does to the database on behalf of one event.
#[async_trait]
pub trait Effect: Send + Sync {
    /// Does it, within `transaction`. It may be called again after a rollback.
    async fn apply(&self, transaction: &Transaction<'_>) -> Result<(), EffectError>;
}

/// Why an effect did not happen.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The event cannot be handled, now or later.
    #[error("{error}")]
    Refused {
        /// Why, in a word.
        reason: Reason,
        /// Why, for a person. It holds no data of the event.
        error: String,
    },
    /// PostgreSQL did not do it.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<tokio_postgres::Error> for EffectError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Commits effects together with the ends of their claims, which must be in the same database.
///
/// # Guarantees
/// An event whose effect is committed is recorded as done, and an event that is recorded as done by this has its effect:
/// they are one transaction. So no outcome leaves open whether an effect may happen twice. Whatever a process believes
/// when its attempt is cut, the next one meets the record.
#[derive(Clone)]
pub struct Inbox {
    database: Database,
    retention: Duration,
}

/// What became of one transaction.
enum Tried {
    Committed,
    /// The claim is not held any more. Rolled back.
    Fenced,
    /// Rolled back.
    Failed(EffectError),
    /// The commit was sent and not confirmed.
    Unknown(DatabaseError),
}

/// What became of a commit that was not confirmed.
enum Found {
    Committed,
    NotCommitted,
    TakenOver,
}

impl Inbox {
    /// Done events are remembered for `retention`.
    pub fn new(database: Database, retention: Duration) -> Self {
        Self { database, retention }
    }

    /// The database that it commits to.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Does `effect` and ends the claim as done. Without a claim nothing is done.
    pub async fn commit(&self, hold: Option<&Hold>, effect: &dyn Effect) -> Outcome {
        let Some(hold) = hold else {
            return Outcome::retryable("there is no claim to commit with: set idempotency.mode to Transactional");
        };
        let mut tries = 0_u32;
        loop {
            tries += 1;
            let (error, may_repeat) = match self.try_once(hold, effect).await {
                Tried::Committed => return Outcome::Done,
                Tried::Fenced => return Outcome::Fenced,
                Tried::Failed(EffectError::Refused { reason, error }) => return Outcome::permanent(reason, error),
                Tried::Failed(EffectError::Database(error)) => match error.class() {
                    Class::Permanent => return Outcome::permanent(Reason::InvalidData, error.to_string()),
                    Class::Repeat => (error, true),
                    Class::Later => (error, false),
                },
                Tried::Unknown(error) => {
                    warn!(key = %hold.key, %error, "a commit was not confirmed: looking for its record");
                    match self.look(hold).await {
                        Found::Committed => return Outcome::Done,
                        Found::TakenOver => return Outcome::Fenced,
                        Found::NotCommitted => (error, true),
                    }
                }
            };
            if !may_repeat || tries >= TRIES_MAX {
                return Outcome::retryable(error.to_string());
            }
            debug!(%error, tries, "rolled back, and tried again");
            tokio::time::sleep(PAUSE_MAX.mul_f64(fastrand::f64())).await;
        }
    }

    async fn try_once(&self, hold: &Hold, effect: &dyn Effect) -> Tried {
        let failed = |error: tokio_postgres::Error| Tried::Failed(error.into());
        let mut session = match self.database.session().await {
            Ok(session) => session,
            Err(error) => return Tried::Failed(error.into()),
        };
        let transaction = match session.transaction().await {
            Ok(transaction) => transaction,
            Err(error) => return failed(error),
        };
        let applied = match self.end(&transaction, hold).await {
            Ok(true) => effect.apply(&transaction).await,
            Ok(false) => {
                if transaction.rollback().await.is_ok() {
                    session.finished();
                }
                return Tried::Fenced;
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = applied {
            if transaction.rollback().await.is_ok() {
                session.finished();
            }
            return Tried::Failed(error);
        }
        match transaction.commit().await {
            Ok(()) => {
                session.finished();
                Tried::Committed
            }
            Err(error) => Tried::Unknown(error.into()),
        }
    }

    /// Whether the claim is held; it is done then, if this transaction is committed.
    async fn end(&self, transaction: &Transaction<'_>, hold: &Hold) -> Result<bool, tokio_postgres::Error> {
        let statement = transaction.prepare_cached(DONE).await?;
        let token = i64::try_from(hold.claimed.token).unwrap_or(i64::MAX);
        let retention = self.retention.as_secs_f64();
        Ok(transaction.execute(&statement, &[&hold.key.to_string(), &token, &retention]).await? > 0)
    }

    /// Looks for what became of a commit, again and again until the database tells. The engine cuts it at the attempt
    /// timeout.
    async fn look(&self, hold: &Hold) -> Found {
        loop {
            match self.look_once(hold).await {
                Ok(found) => return found,
                Err(error) => {
                    debug!(%error, "cannot tell yet what became of a commit");
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            }
        }
    }

    async fn look_once(&self, hold: &Hold) -> Result<Found, DatabaseError> {
        let patience = self.database.request_timeout;
        let whole = async {
            let session = self.database.session().await?;
            let row = session.query_opt(LOOK, &[&hold.key.to_string()]).await?;
            session.finished();
            Ok(row)
        };
        let row = tokio::time::timeout(patience, whole).await.unwrap_or(Err(DatabaseError::Slow(patience)))?;
        let Some(row) = row else { return Ok(Found::TakenOver) };
        let is_ours = u64::try_from(row.try_get::<_, i64>("token")?) == Ok(hold.claimed.token);
        Ok(match row.try_get("state")? {
            "done" if is_ours => Found::Committed,
            "claimed" if is_ours => Found::NotCommitted,
            _ => Found::TakenOver,
        })
    }
}
