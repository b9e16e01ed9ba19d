//! Claims in a table. The rules are those of [`judge`]: SQL only reads a record with the server's time, and writes one on
//! condition that nobody else has written in between.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use millrace_core::{
    claim::{Record, State, Verdict, Wish, judge},
    health::Trouble,
    key::{Fingerprint, Key},
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
};
use tokio_postgres::{Row, types::ToSql};
use tracing::warn;

use crate::{
    error::DatabaseError,
    pool::{Database, Session},
    schema::Component,
    together::Together,
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

/// Claims the events that nobody has claimed before, and reads the records of the others. One round trip for all of them, and
/// nothing written for a repeated event. In the order of their keys, so that two who claim the same wait for each other in one
/// direction only.
const INSERT_OR_READ: &str = "
WITH asked AS (
  SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::text[], $4::float8[]) AS a (key, claim_id, fingerprint, lease)
), fresh AS (
  INSERT INTO millrace.claims (key, state, token, claim_id, lease_until, attempts, uncertain, fingerprint, expires_at)
  SELECT key, 'claimed', nextval('millrace.claim_token'), claim_id, now + make_interval(secs => lease), $5, $6, fingerprint,
         now + make_interval(secs => lease + $7)
  FROM asked, (SELECT clock_timestamp() AS now) AS t
  ORDER BY key
  ON CONFLICT (key) DO NOTHING
  RETURNING key, state, token, claim_id, lease_until, attempts, uncertain, first_failure, fingerprint
)
SELECT true AS is_fresh, clock_timestamp() AS now, * FROM fresh
UNION ALL
SELECT false, clock_timestamp(), key, state, token, claim_id, lease_until, attempts, uncertain, first_failure, fingerprint
FROM millrace.claims WHERE key = ANY ($1) AND NOT EXISTS (SELECT FROM fresh WHERE fresh.key = claims.key)";

/// Takes a claim over, if its row still is as it was read.
const TAKE: &str = "
UPDATE millrace.claims
SET state = 'claimed', token = nextval('millrace.claim_token'), claim_id = $4, lease_until = $5::timestamptz, attempts = $6,
    uncertain = $7, first_failure = $8, expires_at = greatest(expires_at, $5::timestamptz + make_interval(secs => $9))
WHERE key = decode($1, 'hex') AND token = $2 AND state = $3
RETURNING token";

/// Ends the claims that are held, and tells which. What has ended is not ended again. Their rows are locked in the order of
/// their keys, as above.
const END: &str = "
WITH asked AS (
  SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::text[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::timestamptz[])
    AS a (key, token, state, lease_until, attempts, uncertain, first_failure)
), held AS (
  SELECT claims.key FROM millrace.claims JOIN asked USING (key, token)
  WHERE claims.state = 'claimed' ORDER BY claims.key FOR UPDATE OF claims
)
UPDATE millrace.claims
SET state = asked.state, lease_until = asked.lease_until, attempts = asked.attempts, uncertain = asked.uncertain,
    first_failure = asked.first_failure,
    expires_at = greatest(claims.expires_at, clock_timestamp() + make_interval(secs => $8))
FROM held JOIN asked USING (key)
WHERE claims.key = held.key AND claims.token = asked.token AND claims.state = 'claimed'
RETURNING claims.key, claims.token";

/// Whether a claim has ended as it was to end.
const HAS_ENDED: &str = "
SELECT FROM millrace.claims
WHERE key = decode($1, 'hex') AND token = $2 AND state = $3 AND attempts = $4 AND uncertain = $5
  AND first_failure IS NOT DISTINCT FROM $6";

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

/// A claim that is asked for.
#[derive(Clone, Copy)]
struct Asked {
    key: Key,
    wish: Wish,
    claim_id: i64,
}

/// A claim that is to end.
#[derive(Clone, Copy)]
struct Ending {
    key: Key,
    token: i64,
    record: Record,
}

/// A row, as it was read.
#[derive(Clone, Copy)]
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
        let Asked { key, wish, claim_id } = asked;
        for _ in 0..CLAIM_TRIES {
            let answer = self.claiming.ask(asked, |many| self.insert_or_read(many)).await;
            // Nobody's row where another transaction has made it just now, and its snapshot is newer than ours.
            let Some(seen) = answer.ok_or_else(cut)?? else { continue };
            if seen.is_fresh {
                return Ok(Claim::Claimed(Claimed { token: token(seen.token), record: seen.record }));
            }
            let existing = self.without_own_claim(&key, seen.claim_id, seen.record);
            let record = match judge(Some(&existing), &wish, seen.now) {
                Verdict::Claim(record) => record,
                Verdict::Settled => return Ok(Claim::Settled),
                Verdict::Busy(remaining) => return Ok(Claim::Busy(remaining)),
                Verdict::Conflict => return Ok(Claim::Conflict),
            };
            if let Some(token) = self.take(&key, &seen, &record, claim_id).await? {
                return Ok(Claim::Claimed(Claimed { token, record }));
            }
        }
        // Others are quicker each time: whoever won has it now.
        Ok(Claim::Busy(wish.lease))
    }

    /// An answer to each of many, in their order.
    async fn insert_or_read(&self, many: Vec<Asked>) -> Vec<Result<Option<Seen>, StoreError>> {
        let found = self.with_session(async |session| {
            let keys: Vec<&[u8]> = many.iter().map(|asked| asked.key.as_bytes().as_slice()).collect();
            let claim_ids: Vec<i64> = many.iter().map(|asked| asked.claim_id).collect();
            let fingerprints: Vec<&str> = many.iter().map(|asked| asked.wish.fingerprint.as_str()).collect();
            let leases: Vec<f64> = many.iter().map(|asked| asked.wish.lease.as_secs_f64()).collect();
            let retention = self.retention.as_secs_f64();
            let statement = session.prepare_cached(INSERT_OR_READ).await?;
            // Of an event that nobody has claimed before, this is the first attempt, and none is uncertain.
            let parameters: [&(dyn ToSql + Sync); 7] =
                [&keys, &claim_ids, &fingerprints, &leases, &1_i64, &0_i64, &retention];
            let rows = session.query(&statement, &parameters).await?;
            rows.iter()
                .map(|row| Ok((row.try_get::<_, Vec<u8>>("key")?, seen(row)?)))
                .collect::<Result<_, DatabaseError>>()
        });
        let found: HashMap<Vec<u8>, Seen> = match found.await {
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
        let ended = self.with_session(async |session| {
            let keys: Vec<&[u8]> = many.iter().map(|ending| ending.key.as_bytes().as_slice()).collect();
            let tokens: Vec<i64> = many.iter().map(|ending| ending.token).collect();
            let states: Vec<&str> = many.iter().map(|ending| state_name(ending.record.state)).collect();
            let lease_ends: Vec<Option<Timestamp>> = many.iter().map(|ending| lease_end(ending.record.state)).collect();
            let attempts: Vec<i64> = many.iter().map(|ending| ending.record.attempts.into()).collect();
            let uncertain: Vec<i64> = many.iter().map(|ending| ending.record.uncertain.into()).collect();
            let failures: Vec<Option<Timestamp>> = many.iter().map(|ending| ending.record.first_failure).collect();
            let retention = self.retention.as_secs_f64();
            let statement = session.prepare_cached(END).await?;
            let parameters: [&(dyn ToSql + Sync); 8] =
                [&keys, &tokens, &states, &lease_ends, &attempts, &uncertain, &failures, &retention];
            let rows = session.query(&statement, &parameters).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, DatabaseError>>()
        });
        // With its token: one who was taken over may ask together with the one who took over.
        let ended: HashSet<(Vec<u8>, i64)> = match ended.await {
            Ok(ended) => ended,
            Err(error) => return to_each(&many, &error),
        };
        many.iter().map(|ending| Ok(ended.contains(&(ending.key.as_bytes().to_vec(), ending.token)))).collect()
    }

    /// Whether the claim has ended in just this way before.
    async fn has_ended(&self, ending: &Ending) -> Result<bool, DatabaseError> {
        let Ending { key, token, record } = ending;
        self.with_session(async |session| {
            let statement = session.prepare_cached(HAS_ENDED).await?;
            let (attempts, uncertain) = (i64::from(record.attempts), i64::from(record.uncertain));
            let parameters: [&(dyn ToSql + Sync); 6] =
                [&key.to_string(), token, &state_name(record.state), &attempts, &uncertain, &record.first_failure];
            Ok(session.query_opt(&statement, &parameters).await?.is_some())
        })
        .await
    }

    async fn take(&self, key: &Key, seen: &Seen, record: &Record, claim_id: i64) -> Result<Option<u64>, DatabaseError> {
        self.with_session(async |session| {
            let statement = session.prepare_cached(TAKE).await?;
            let (attempts, uncertain) = (i64::from(record.attempts), i64::from(record.uncertain));
            let retention = self.retention.as_secs_f64();
            let parameters: [&(dyn ToSql + Sync); 9] = [
                &key.to_string(),
                &seen.token,
                &state_name(seen.record.state),
                &claim_id,
                &lease_end(record.state),
                &attempts,
                &uncertain,
                &record.first_failure,
                &retention,
            ];
            Ok(session.query_opt(&statement, &parameters).await?.map(|row| token(row.get(0))))
        })
        .await
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
        if answer.ok_or_else(cut)?? || self.has_ended(&ending).await? { Ok(()) } else { Err(StoreError::Fenced) }
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
            // A text that no release has written is the fingerprint of no event.
            fingerprint: Fingerprint::try_from(row.try_get::<_, &str>("fingerprint")?)
                .unwrap_or(Fingerprint::literal(b"")),
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
