//! Claims in PostgreSQL. The rules are those of [`judge`]: the table only gives a record with the server's time, and takes one
//! on condition that nobody else has written in between.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use millrace_core::{
    claim::{Record, State, Verdict, Wish, judge},
    health::Trouble,
    key::Key,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
};
use tracing::warn;

use crate::{
    error::DatabaseError,
    pool::{Database, Session},
    table::{Asked, CLAIMS, Ending, Seen, end, has_ended, insert_or_read, take, token},
    together::Together,
};

/// Tries to claim while others write the same row.
const CLAIM_TRIES: u32 = 4;

/// Claims of unknown fate that are remembered. As many as can be in flight when a server dies.
const UNSURE_MAX: usize = 8192;

/// Requests of one statement. Past some hundreds the round trip and the commit no longer show.
const TOGETHER_MAX: usize = 256;

/// Statements with many requests that are on their way at once: while one commits, the next is prepared.
const TOGETHER_AT_ONCE: usize = 2;

/// Claims in a table of PostgreSQL, shared by all replicas of all consumers that use the database.
///
/// A fresh claim, a repeated event and the end of a claim take one round trip each, together with those of other events
/// that are asked for meanwhile. The end of a claim is judged by the server's clock.
pub struct PostgresStore {
    pub(crate) database: Database,
    retention: Duration,
    claiming: Together<Asked, Result<Option<Seen>, StoreError>>,
    ending: Together<Ending, Result<bool, StoreError>>,
    /// Claims that were sent and never confirmed, so that they are recognised as our own when they come to light.
    unsure: Mutex<HashMap<Key, i64>>,
}

impl PostgresStore {
    /// Opens the table, and makes it when it does not exist. Ended events are remembered for `retention`.
    ///
    /// # Errors
    /// What keeps the database from being reached, and missing rights.
    pub async fn open(database: Database, retention: Duration) -> Result<Self, Trouble> {
        database.install(&CLAIMS).await?;
        let store = Self {
            database,
            retention,
            claiming: Together::new(TOGETHER_AT_ONCE, TOGETHER_MAX),
            ending: Together::new(TOGETHER_AT_ONCE, TOGETHER_MAX),
            unsure: Mutex::default(),
        };
        store.warn_of_lost_commits().await.map_err(|error| error.trouble())?;
        Ok(store)
    }

    async fn warn_of_lost_commits(&self) -> Result<(), DatabaseError> {
        let session = self.database.session().await?;
        let fsync: String = session.query_one("SELECT current_setting('fsync')", &[]).await?.get(0);
        session.finished();
        if fsync == "off" {
            warn!(
                "this PostgreSQL runs with fsync = off: a crash of its machine loses claims, and effects happen again"
            );
        }
        Ok(())
    }

    /// Runs `work` with a connection, within the request timeout.
    async fn with_session<T>(
        &self,
        work: impl AsyncFnOnce(&Session) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let patience = self.database.request_timeout;
        let whole = async {
            let session = self.database.session().await?;
            let answer = work(&session).await?;
            session.finished();
            Ok(answer)
        };
        tokio::time::timeout(patience, whole).await.unwrap_or(Err(DatabaseError::Slow(patience)))
    }

    async fn try_to_claim(&self, asked: Asked) -> Result<Claim, StoreError> {
        for _ in 0..CLAIM_TRIES {
            let answer = self.claiming.ask(asked, |many| self.insert_or_read(many)).await;
            // Nobody's row where another transaction has made it just now, and its snapshot is newer than ours.
            let Some(seen) = answer.ok_or_else(cut)?? else { continue };
            if seen.is_fresh {
                return Ok(Claim::Claimed(Claimed { token: token(seen.token), record: seen.record }));
            }
            let existing = self.without_own_claim(&asked.key, seen.claim_id, seen.record);
            let record = match judge(Some(&existing), &asked.wish, seen.now) {
                Verdict::Claim(record) => record,
                Verdict::Settled => return Ok(Claim::Settled),
                Verdict::Busy(remaining) => return Ok(Claim::Busy(remaining)),
                Verdict::Conflict => return Ok(Claim::Conflict),
            };
            let taken = self
                .with_session(async |session| take(session, &asked, &seen, &record, self.retention_seconds()).await);
            if let Some(token) = taken.await? {
                return Ok(Claim::Claimed(Claimed { token, record }));
            }
        }
        // Others are quicker each time: whoever won has it now.
        Ok(Claim::Busy(asked.wish.lease))
    }

    /// An answer to each of many, in their order.
    async fn insert_or_read(&self, many: Vec<Asked>) -> Vec<Result<Option<Seen>, StoreError>> {
        let found = self.with_session(async |session| insert_or_read(session, &many, self.retention_seconds()).await);
        let found = match found.await {
            Ok(found) => found,
            Err(error) => return to_each(&many, &error),
        };
        let answer = |asked: &Asked| {
            // What two asked for at the same time is one's; to the other it does not stand there yet.
            let is_anothers = |seen: &Seen| seen.is_fresh && seen.claim_id != asked.claim_id;
            found.get(asked.key.as_bytes().as_slice()).copied().filter(|seen| !is_anothers(seen))
        };
        many.iter().map(|asked| Ok(answer(asked))).collect()
    }

    /// Whether each of many was held and has ended now, in their order.
    async fn end_many(&self, many: Vec<Ending>) -> Vec<Result<bool, StoreError>> {
        let ended = self.with_session(async |session| end(session, &many, self.retention_seconds()).await);
        let ended = match ended.await {
            Ok(ended) => ended,
            Err(error) => return to_each(&many, &error),
        };
        many.iter().map(|ending| Ok(ended.contains(&(ending.key.as_bytes().to_vec(), ending.token)))).collect()
    }

    fn retention_seconds(&self) -> f64 {
        self.retention.as_secs_f64()
    }

    /// What a record says to this process. A claim that this process asked for and heard no answer to is its own: no
    /// attempt has started on it.
    fn without_own_claim(&self, key: &Key, claim_id: i64, record: Record) -> Record {
        let is_own = matches!(record.state, State::Claimed { .. }) && self.unsure().get(key) == Some(&claim_id);
        if is_own { record.ended(State::Released).unspent() } else { record }
    }

    fn unsure(&self) -> MutexGuard<'_, HashMap<Key, i64>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl IdempotencyStore for PostgresStore {
    async fn claim(&self, key: &Key, wish: &Wish) -> Result<Claim, StoreError> {
        let claim_id = fastrand::i64(..);
        let claim = self.try_to_claim(Asked { key: *key, wish: *wish, claim_id }).await;
        let mut unsure = self.unsure();
        if claim.is_err() && (unsure.len() < UNSURE_MAX || unsure.contains_key(key)) {
            unsure.insert(*key, claim_id);
        } else if !unsure.is_empty() {
            unsure.remove(key);
        }
        claim
    }

    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError> {
        let ending = Ending { key: *key, token: i64::try_from(claim.token).unwrap_or(i64::MAX), record: *record };
        let answer = self.ending.ask(ending, |many| self.end_many(many)).await;
        // An earlier try may have been written without our hearing of it. A statement of its own, so that it sees what the one
        // before had to wait for.
        let has_ended = self.with_session(async |session| has_ended(session, &ending).await);
        if answer.ok_or_else(cut)?? || has_ended.await? { Ok(()) } else { Err(StoreError::Fenced) }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.with_session(async |session| {
            session.query("SELECT FROM millrace.claims LIMIT 1", &[]).await?;
            Ok(())
        })
        .await?;
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

/// The same error to each of many.
fn to_each<Q, A>(many: &[Q], error: &DatabaseError) -> Vec<Result<A, StoreError>> {
    let text = error.to_string();
    many.iter().map(|_| Err(StoreError::Unavailable(text.clone()))).collect()
}

/// The one who sent a request for others too was cut.
fn cut() -> StoreError {
    StoreError::Unavailable("the request was cut before its answer came".to_owned())
}
