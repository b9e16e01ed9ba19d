//! Claims in Redis or Valkey. The token of an entry is the fencing token of its claim.

mod durability;
mod link;
pub(crate) mod secret;

use std::{future::Future, sync::Arc, time::Duration};

use ::redis::{RedisError, Script, aio::MultiplexedConnection};
use async_trait::async_trait;
use jiff::Timestamp;
use millrace_core::{
    backoff::Backoff,
    claim::{Record, Verdict, Wish, judge},
    health::{Health, Trouble, TroubleReason},
    key::Key,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
};
use millrace_secret::MountedSecret;
use tokio::time::timeout;

use crate::{lifetime::lifetime, redis::link::Link, unsure::Unsure};

/// Tries to claim while others write the same entry.
const CLAIM_TRIES: u32 = 4;

/// In front of each key. Do not change: servers hold entries of earlier releases.
const PREFIX: &str = "millrace:claim:";

/// Both scripts answer: written or not, the server's time in seconds and microseconds, and the token and record that are
/// there now. The token 0 and an empty record stand for nothing.
const READ: &str = "
local time = redis.call('TIME')
local entry = redis.call('HMGET', KEYS[1], 'token', 'record')
return {0, time[1], time[2], entry[1] or '0', entry[2] or ''}
";

/// Writes a record on condition that the entry still has the token that the caller has seen. A token is larger than the
/// one before it, and larger than those of an entry that was lost: it is at least the server's time in microseconds.
const WRITE: &str = "
local time = redis.call('TIME')
local entry = redis.call('HMGET', KEYS[1], 'token', 'record')
local seen = entry[1] or '0'
if seen ~= ARGV[1] then
  return {0, time[1], time[2], seen, entry[2] or ''}
end
local token = string.format('%.0f', math.max(time[1] * 1000000 + time[2], seen + 1))
redis.call('HSET', KEYS[1], 'token', token, 'record', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1, time[1], time[2], token, ARGV[2]}
";

/// The answer of a script, as it comes.
type Answer = (u8, i64, i64, u64, Vec<u8>);

/// The server that claims are kept on.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// Secret with the keys `url`, and, where they are needed, `username`, `password` and `ca.crt`.
    pub secret: MountedSecret,
    /// How long a done event is remembered.
    pub retention: Duration,
    /// The time that one request may take, making a connection for it included.
    pub request_timeout: Duration,
    /// The pauses between two tries to connect.
    pub reconnect: Backoff,
}

/// Claims in Redis or Valkey, shared by all replicas of a consumer.
///
/// # Guarantees
/// What a claim comes to is judged here, by the server's time, and written on condition that nobody wrote in between. An
/// entry expires by itself when it may be forgotten.
///
/// # Caveats
/// The server keeps as much as it is set up to keep: what it forgets in a crash, in a failover to a copy that lags behind,
/// or by `FLUSHALL`, is handled again when it is delivered again.
pub struct RedisStore {
    link: Link,
    retention: Duration,
    request_timeout: Duration,
    read: Script,
    write: Script,
    unsure: Unsure,
}

/// An entry as the server holds it, and the server's time then.
struct Entry {
    written: bool,
    now: Timestamp,
    token: u64,
    record: Option<Record>,
}

impl RedisStore {
    /// Connects. A server that may forget claims in a crash is noted in `health`, at each connection anew.
    ///
    /// # Errors
    /// `StoreUnsafe` when the server evicts what it holds; `SecretMissing`, `SecretInvalid`, `Unauthorized`, `TlsFailed`,
    /// `Unreachable` or `Failing` when it cannot be used.
    pub async fn open(options: &RedisOptions, health: Arc<Health>) -> Result<Self, Trouble> {
        let link = Link::new(options.clone(), health);
        timeout(options.request_timeout, link.connection()).await.map_err(|_| {
            let message = format!("the Redis server does not answer within {:?}", options.request_timeout);
            Trouble::new(TroubleReason::Unreachable, message)
        })??;
        Ok(Self {
            link,
            retention: options.retention,
            request_timeout: options.request_timeout,
            read: Script::new(READ),
            write: Script::new(WRITE),
            unsure: Unsure::default(),
        })
    }

    async fn read(&self, key: &Key) -> Result<Entry, StoreError> {
        let name = name(key);
        let invocation = self.read.key(name);
        let answer = self.ask(async |mut connection| invocation.invoke_async(&mut connection).await).await?;
        entry(answer)
    }

    /// Writes a record on condition that the entry still has `token`, and tells what is there then.
    async fn write(&self, key: &Key, record: &Record, token: u64, now: Timestamp) -> Result<Entry, StoreError> {
        let json = serde_json::to_vec(record).map_err(|error| unavailable(&error))?;
        let life = u64::try_from(lifetime(record, self.retention, now).as_millis()).unwrap_or(u64::MAX);
        let mut invocation = self.write.prepare_invoke();
        invocation.key(name(key)).arg(token).arg(json).arg(life);
        let answer = self.ask(async |mut connection| invocation.invoke_async(&mut connection).await).await?;
        entry(answer)
    }

    /// Asks the server, within the time that a request may take. After an error the next request uses another connection.
    async fn ask<T, F>(&self, request: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let mut used = None;
        let asked = async {
            let (number, connection) = self.link.connection().await.map_err(|trouble| unavailable(&trouble))?;
            used = Some(number);
            request(connection).await.map_err(|error| unavailable(&error))
        };
        let answer = timeout(self.request_timeout, asked)
            .await
            .unwrap_or_else(|_| Err(unavailable(&format_args!("no answer within {:?}", self.request_timeout))));
        if let (Err(_), Some(number)) = (&answer, used) {
            self.link.broken(number).await;
        }
        answer
    }
}

fn name(key: &Key) -> String {
    format!("{PREFIX}{key}")
}

fn entry((written, seconds, microseconds, token, json): Answer) -> Result<Entry, StoreError> {
    let nanoseconds = i32::try_from(microseconds.saturating_mul(1000)).map_err(|error| unavailable(&error))?;
    let now = Timestamp::new(seconds, nanoseconds).map_err(|error| unavailable(&error))?;
    let record = if json.is_empty() {
        None
    } else {
        let record = serde_json::from_slice(&json);
        Some(record.map_err(|error| unavailable(&format_args!("an entry cannot be read: {error}")))?)
    };
    Ok(Entry { written: written == 1, now, token, record })
}

fn unavailable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

#[async_trait]
impl IdempotencyStore for RedisStore {
    async fn claim(&self, key: &Key, wish: &Wish) -> Result<Claim, StoreError> {
        let mut found = self.read(key).await?;
        for _ in 0..CLAIM_TRIES {
            let existing = found.record.map(|record| self.unsure.without_own_claim(key, record));
            let record = match judge(existing.as_ref(), wish, found.now) {
                Verdict::Claim(record) => record,
                Verdict::Settled => return Ok(Claim::Settled),
                Verdict::Busy(remaining) => return Ok(Claim::Busy(remaining)),
                Verdict::Conflict => return Ok(Claim::Conflict),
            };
            let written = self.write(key, &record, found.token, found.now).await;
            self.unsure.note(key, &record, written.as_ref().map(|found| found.written));
            found = written?;
            if found.written {
                return Ok(Claim::Claimed(Claimed { token: found.token, record }));
            }
        }
        // Others are quicker each time: whoever won has it now.
        Ok(Claim::Busy(wish.lease))
    }

    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError> {
        // The end of a record that is no claim does not depend on the time.
        let found = self.write(key, record, claim.token, Timestamp::UNIX_EPOCH).await?;
        // An earlier try may have been written without our hearing of it. Nobody else writes this record: a later claim
        // has a higher number of attempts.
        if found.written || found.record.as_ref() == Some(record) { Ok(()) } else { Err(StoreError::Fenced) }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ask(async |mut connection| ::redis::cmd("PING").query_async(&mut connection).await).await
    }

    fn is_durable(&self) -> bool {
        true
    }
}
