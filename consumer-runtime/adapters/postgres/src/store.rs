//! Claims in a table. The rules are those of [`judge`]: SQL only reads a record with the server's time, and writes one on
//! condition that nobody else has written in between.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use millrace_core::{
    claim::{Record, State, Verdict, Wish, judge},
    health::Trouble,
    key::Key,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
};
use tokio_postgres::Row;
use tracing::warn;

use crate::{
    error::DatabaseError,
    pool::{Database, Session},
    schema::Component,
};

/// Tries to claim while others write the same row.
const CLAIM_TRIES: u32 = 4;

/// Claims of unknown fate that are remembered. As many as can be in flight when a server dies.
const UNSURE_MAX: usize = 8192;

/// The table of claims.
///
/// Tokens come from a sequence, so that a key that was forgotten and is claimed again never gets one that somebody may
/// still hold. `expires_at` is set by the claim to more than its end needs, so that ending it changes no index.
pub(crate) const CLAIMS: Component = Component {
    name: "claims",
    migrations: &["CREATE SEQUENCE millrace.claim_token; \
         CREATE TABLE millrace.claims ( \
           key bytea PRIMARY KEY, \
           state text NOT NULL CHECK (state IN ('claimed', 'released', 'done', 'dead')), \
           token bigint NOT NULL, \
           claim_id bigint NOT NULL, \
           lease_until timestamptz, \
           attempts bigint NOT NULL, \
           uncertain bigint NOT NULL, \
           first_failure timestamptz, \
           fingerprint text NOT NULL, \
           expires_at timestamptz NOT NULL, \
           CHECK ((state = 'claimed') = (lease_until IS NOT NULL)) \
         ) WITH (fillfactor = 70); \
         CREATE INDEX claims_expires_at ON millrace.claims (expires_at)"],
    tables: &[("millrace.claims", "SELECT,INSERT,UPDATE,DELETE")],
    sequences: &["millrace.claim_token"],
};

/// Claims an event that nobody has claimed before; else reads its record. One round trip for both, and nothing written
/// for a repeated event.
const INSERT_OR_READ: &str = "
WITH fresh AS (
  INSERT INTO millrace.claims (key, state, token, claim_id, lease_until, attempts, uncertain, fingerprint, expires_at)
  SELECT decode($1, 'hex'), 'claimed', nextval('millrace.claim_token'), $2, t.now + t.lease, $3, $4, $5,
         t.now + t.lease + make_interval(secs => $7)
  FROM (SELECT clock_timestamp() AS now, make_interval(secs => $6) AS lease) AS t
  ON CONFLICT (key) DO NOTHING
  RETURNING state, token, claim_id, lease_until, attempts, uncertain, first_failure, fingerprint
)
SELECT true AS is_fresh, clock_timestamp() AS now, * FROM fresh
UNION ALL
SELECT false, clock_timestamp(), state, token, claim_id, lease_until, attempts, uncertain, first_failure, fingerprint
FROM millrace.claims WHERE key = decode($1, 'hex') AND NOT EXISTS (SELECT FROM fresh)";

/// Takes a claim over, if its row still is as it was read.
const TAKE: &str = "
UPDATE millrace.claims
SET state = 'claimed', token = nextval('millrace.claim_token'), claim_id = $4, lease_until = $5::timestamptz, attempts = $6,
    uncertain = $7, first_failure = $8, expires_at = greatest(expires_at, $5::timestamptz + make_interval(secs => $9))
WHERE key = decode($1, 'hex') AND token = $2 AND state = $3
RETURNING token";

/// Ends a claim that is held. What has ended is not ended again.
const END: &str = "
UPDATE millrace.claims
SET state = $3, lease_until = $4, attempts = $5, uncertain = $6, first_failure = $7,
    expires_at = greatest(expires_at, clock_timestamp() + make_interval(secs => $8))
WHERE key = decode($1, 'hex') AND token = $2 AND state = 'claimed'";

/// Whether a claim has ended as it was to end.
const HAS_ENDED: &str = "
SELECT FROM millrace.claims
WHERE key = decode($1, 'hex') AND token = $2 AND state = $3 AND attempts = $4 AND uncertain = $5
  AND first_failure IS NOT DISTINCT FROM $6";

/// Claims in a table of PostgreSQL, shared by all replicas of all consumers that use the database.
///
/// A fresh claim, a repeated event and the end of a claim take one round trip each. The end of a claim is judged by the
/// server's clock.
pub struct PostgresStore {
    pub(crate) database: Database,
    retention: Duration,
    /// Claims that were sent and never confirmed, so that they are recognised as our own when they come to light.
    unsure: Mutex<HashMap<Key, i64>>,
}

/// A row, as it was read.
struct Seen {
    is_fresh: bool,
    now: Timestamp,
    token: i64,
    claim_id: i64,
    record: Record,
}

impl PostgresStore {
    /// Opens the table, and makes it when it does not exist. Ended events are remembered for `retention`.
    ///
    /// # Errors
    /// What keeps the database from being reached, and missing rights.
    pub async fn open(database: Database, retention: Duration) -> Result<Self, Trouble> {
        database.install(&CLAIMS).await?;
        let store = Self { database, retention, unsure: Mutex::default() };
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

    async fn try_to_claim(&self, key: &Key, wish: &Wish<'_>, claim_id: i64) -> Result<Claim, DatabaseError> {
        let patience = self.database.request_timeout;
        let whole = async {
            let session = self.database.session().await?;
            let claim = self.claim_with(&session, key, wish, claim_id).await?;
            session.finished();
            Ok(claim)
        };
        tokio::time::timeout(patience, whole).await.unwrap_or(Err(DatabaseError::Slow(patience)))
    }

    async fn claim_with(
        &self,
        session: &Session,
        key: &Key,
        wish: &Wish<'_>,
        claim_id: i64,
    ) -> Result<Claim, DatabaseError> {
        for _ in 0..CLAIM_TRIES {
            // Nobody's row where another transaction has made it just now, and its snapshot is newer than ours.
            let Some(seen) = self.insert_or_read(session, key, wish, claim_id).await? else { continue };
            if seen.is_fresh {
                return Ok(Claim::Claimed(Claimed { token: token(seen.token), record: seen.record }));
            }
            let existing = self.without_own_claim(key, seen.claim_id, seen.record.clone());
            let record = match judge(Some(&existing), wish, seen.now) {
                Verdict::Claim(record) => record,
                Verdict::Settled => return Ok(Claim::Settled),
                Verdict::Busy(remaining) => return Ok(Claim::Busy(remaining)),
                Verdict::Conflict => return Ok(Claim::Conflict),
            };
            if let Some(token) = self.take(session, key, &seen, &record, claim_id).await? {
                return Ok(Claim::Claimed(Claimed { token, record }));
            }
        }
        // Others are quicker each time: whoever won has it now.
        Ok(Claim::Busy(wish.lease))
    }

    async fn insert_or_read(
        &self,
        session: &Session,
        key: &Key,
        wish: &Wish<'_>,
        claim_id: i64,
    ) -> Result<Option<Seen>, DatabaseError> {
        let first = match judge(None, wish, Timestamp::UNIX_EPOCH) {
            Verdict::Claim(record) => record,
            // Nothing is known of the event, so nothing else can be the verdict.
            Verdict::Settled | Verdict::Busy(_) | Verdict::Conflict => return Ok(None),
        };
        let statement = session.prepare_cached(INSERT_OR_READ).await?;
        let row = session
            .query_opt(
                &statement,
                &[
                    &key.as_str(),
                    &claim_id,
                    &i64::from(first.attempts),
                    &i64::from(first.uncertain),
                    &first.fingerprint,
                    &wish.lease.as_secs_f64(),
                    &self.retention.as_secs_f64(),
                ],
            )
            .await?;
        row.map(|row| seen(&row)).transpose()
    }

    async fn take(
        &self,
        session: &Session,
        key: &Key,
        seen: &Seen,
        record: &Record,
        claim_id: i64,
    ) -> Result<Option<u64>, DatabaseError> {
        let statement = session.prepare_cached(TAKE).await?;
        let row = session
            .query_opt(
                &statement,
                &[
                    &key.as_str(),
                    &seen.token,
                    &state_name(seen.record.state),
                    &claim_id,
                    &lease_end(record.state),
                    &i64::from(record.attempts),
                    &i64::from(record.uncertain),
                    &record.first_failure,
                    &self.retention.as_secs_f64(),
                ],
            )
            .await?;
        Ok(row.map(|row| token(row.get(0))))
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
    async fn claim(&self, key: &Key, wish: &Wish<'_>) -> Result<Claim, StoreError> {
        let claim_id = fastrand::i64(..);
        let claim = self.try_to_claim(key, wish, claim_id).await;
        let mut unsure = self.unsure();
        if claim.is_err() && (unsure.len() < UNSURE_MAX || unsure.contains_key(key)) {
            unsure.insert(key.clone(), claim_id);
        } else if !unsure.is_empty() {
            unsure.remove(key);
        }
        claim.map_err(StoreError::from)
    }

    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError> {
        let ended = self
            .with_session(async |session| {
                let token = i64::try_from(claim.token).unwrap_or(i64::MAX);
                let (state, attempts, uncertain) =
                    (state_name(record.state), i64::from(record.attempts), i64::from(record.uncertain));
                let statement = session.prepare_cached(END).await?;
                let (until, retention) = (lease_end(record.state), self.retention.as_secs_f64());
                let changed = session
                    .execute(
                        &statement,
                        &[
                            &key.as_str(),
                            &token,
                            &state,
                            &until,
                            &attempts,
                            &uncertain,
                            &record.first_failure,
                            &retention,
                        ],
                    )
                    .await?;
                if changed > 0 {
                    return Ok(true);
                }
                // An earlier try may have been written without our hearing of it. A statement of its own, so that it sees
                // what the one before had to wait for.
                let statement = session.prepare_cached(HAS_ENDED).await?;
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                    [&key.as_str(), &token, &state, &attempts, &uncertain, &record.first_failure];
                Ok(session.query_opt(&statement, &parameters).await?.is_some())
            })
            .await?;
        if ended { Ok(()) } else { Err(StoreError::Fenced) }
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

fn seen(row: &Row) -> Result<Seen, DatabaseError> {
    let until: Option<Timestamp> = row.try_get("lease_until")?;
    let state = match row.try_get::<_, &str>("state")? {
        "done" => State::Done,
        "dead" => State::Dead,
        "released" => State::Released,
        // The table allows no other, and a claimed one has its end.
        _ => State::Claimed { until: until.unwrap_or(Timestamp::MAX) },
    };
    let count =
        |column: &str| Ok::<_, DatabaseError>(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX));
    Ok(Seen {
        is_fresh: row.try_get("is_fresh")?,
        now: row.try_get("now")?,
        token: row.try_get("token")?,
        claim_id: row.try_get("claim_id")?,
        record: Record {
            state,
            attempts: count("attempts")?,
            uncertain: count("uncertain")?,
            first_failure: row.try_get("first_failure")?,
            fingerprint: row.try_get("fingerprint")?,
        },
    })
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Claimed { .. } => "claimed",
        State::Released => "released",
        State::Done => "done",
        State::Dead => "dead",
    }
}

fn lease_end(state: State) -> Option<Timestamp> {
    match state {
        State::Claimed { until } => Some(until),
        State::Released | State::Done | State::Dead => None,
    }
}

/// A token as the port has it. A sequence begins at 1.
fn token(token: i64) -> u64 {
    u64::try_from(token).unwrap_or(0)
}
