//! The table of claims, and what is said to it: each statement is a function of a session.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use millrace_core::{
    claim::{Record, State, Wish},
    key::{Fingerprint, Key},
};
use tokio_postgres::{Row, types::ToSql};

use crate::{error::DatabaseError, pool::Session, schema::Component};

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

/// A claim that is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) key: Key,
    pub(crate) wish: Wish,
    pub(crate) claim_id: i64,
}

/// A claim that is to end.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) key: Key,
    pub(crate) token: i64,
    pub(crate) record: Record,
}

/// A row, as it was read.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) is_fresh: bool,
    pub(crate) now: Timestamp,
    pub(crate) token: i64,
    pub(crate) claim_id: i64,
    pub(crate) record: Record,
}

/// Claims many events, or reads their rows, by their keys. Nothing of one that another transaction has made just now, so that
/// its snapshot is newer than ours.
pub(crate) async fn insert_or_read(
    session: &Session,
    many: &[Asked],
    retention_seconds: f64,
) -> Result<HashMap<Vec<u8>, Seen>, DatabaseError> {
    let keys: Vec<&[u8]> = many.iter().map(|asked| asked.key.as_bytes().as_slice()).collect();
    let claim_ids: Vec<i64> = many.iter().map(|asked| asked.claim_id).collect();
    let fingerprints: Vec<&str> = many.iter().map(|asked| asked.wish.fingerprint.as_str()).collect();
    let leases: Vec<f64> = many.iter().map(|asked| asked.wish.lease.as_secs_f64()).collect();
    let statement = session.prepare_cached(INSERT_OR_READ).await?;
    // Of an event that nobody has claimed before, this is the first attempt, and none is uncertain.
    let parameters: [&(dyn ToSql + Sync); 7] =
        [&keys, &claim_ids, &fingerprints, &leases, &1_i64, &0_i64, &retention_seconds];
    let rows = session.query(&statement, &parameters).await?;
    rows.iter().map(|row| Ok((row.try_get("key")?, seen(row)?))).collect()
}

/// Takes a claim over, if its row still is as it was read. Its token, if so.
pub(crate) async fn take(
    session: &Session,
    asked: &Asked,
    seen: &Seen,
    record: &Record,
    retention_seconds: f64,
) -> Result<Option<u64>, DatabaseError> {
    let statement = session.prepare_cached(TAKE).await?;
    let (attempts, uncertain) = (i64::from(record.attempts), i64::from(record.uncertain));
    let parameters: [&(dyn ToSql + Sync); 9] = [
        &asked.key.to_string(),
        &seen.token,
        &state_name(seen.record.state),
        &asked.claim_id,
        &lease_end(record.state),
        &attempts,
        &uncertain,
        &record.first_failure,
        &retention_seconds,
    ];
    Ok(session.query_opt(&statement, &parameters).await?.map(|row| token(row.get(0))))
}

/// Ends many claims. Which of them were held and have ended now: their keys, with their tokens, since one who was taken over
/// may ask together with the one who took over.
pub(crate) async fn end(
    session: &Session,
    many: &[Ending],
    retention_seconds: f64,
) -> Result<HashSet<(Vec<u8>, i64)>, DatabaseError> {
    let keys: Vec<&[u8]> = many.iter().map(|ending| ending.key.as_bytes().as_slice()).collect();
    let tokens: Vec<i64> = many.iter().map(|ending| ending.token).collect();
    let states: Vec<&str> = many.iter().map(|ending| state_name(ending.record.state)).collect();
    let lease_ends: Vec<Option<Timestamp>> = many.iter().map(|ending| lease_end(ending.record.state)).collect();
    let attempts: Vec<i64> = many.iter().map(|ending| ending.record.attempts.into()).collect();
    let uncertain: Vec<i64> = many.iter().map(|ending| ending.record.uncertain.into()).collect();
    let failures: Vec<Option<Timestamp>> = many.iter().map(|ending| ending.record.first_failure).collect();
    let statement = session.prepare_cached(END).await?;
    let parameters: [&(dyn ToSql + Sync); 8] =
        [&keys, &tokens, &states, &lease_ends, &attempts, &uncertain, &failures, &retention_seconds];
    let rows = session.query(&statement, &parameters).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Whether a claim has ended in just this way before.
pub(crate) async fn has_ended(session: &Session, ending: &Ending) -> Result<bool, DatabaseError> {
    let Ending { key, token, record } = ending;
    let statement = session.prepare_cached(HAS_ENDED).await?;
    let (attempts, uncertain) = (i64::from(record.attempts), i64::from(record.uncertain));
    let parameters: [&(dyn ToSql + Sync); 6] =
        [&key.to_string(), token, &state_name(record.state), &attempts, &uncertain, &record.first_failure];
    Ok(session.query_opt(&statement, &parameters).await?.is_some())
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
pub(crate) fn token(token: i64) -> u64 {
    u64::try_from(token).unwrap_or(0)
}
