//! Claims in the memory of one process: for trying out, and for brokers that keep nothing either.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use millrace_core::{
    claim::{Record, State, Verdict, Wish, judge},
    key::Key,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
    seen::{Seen, Sight},
    time::{Clock, Monotonic},
};

/// Parts with a lock each, so that two workers seldom wait for each other.
const SHARDS: usize = 16;

/// Ends of claims that a shard knows again when they are repeated. Who repeats one does so at once.
const REPEATABLE_MAX: usize = 64;

/// Claims in memory. Bounded: of the events that ended, a set of fingerprints remembers the last, in 32 bytes each.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    max_entries: usize,
    /// By the event's key.
    shards: [Mutex<Claims>; SHARDS],
    /// The events that are claimed or released, over all shards.
    open: AtomicUsize,
    /// The events that ended.
    ended: Seen,
}

#[derive(Default)]
struct Claims {
    /// The events that are claimed or released.
    open: HashMap<Key, Entry, BuildHasherDefault<Tail>>,
    /// The claims that ended last, with their tokens.
    repeatable: VecDeque<(Key, u64)>,
    last_token: u64,
}

struct Entry {
    token: u64,
    record: Record,
}

/// The end of the random half of a key. The keys of a store that ends with its process are random numbers that nobody can
/// choose, and need no further hash; the shard takes their first byte.
#[derive(Default)]
struct Tail(u64);

impl Hasher for Tail {
    fn write(&mut self, bytes: &[u8]) {
        let (numbers, _) = bytes.as_chunks::<8>();
        self.0 = numbers.get(1).map_or(self.0, |number| u64::from_le_bytes(*number));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl MemoryStore {
    /// An empty store for `max_entries` events that are claimed, and as many that ended, these for `retention`.
    pub fn new(clock: Arc<dyn Clock>, max_entries: usize, retention: Duration) -> Self {
        let (shards, open) = (std::array::from_fn(|_| Mutex::default()), AtomicUsize::new(0));
        Self { clock, max_entries, shards, open, ended: Seen::new(max_entries, retention) }
    }

    /// Forgets released events when there is no room for another: the broker may have given them to another process, which has
    /// ended them. What is lost of one that comes back is how often it was tried, which the broker counts too, and, of those
    /// that go last, that its effect may have happened.
    fn make_room(&self) {
        let may_go: [fn(&Record) -> bool; 2] = [
            |record| record.state == State::Released && record.uncertain == 0,
            |record| record.state == State::Released,
        ];
        for may_go in may_go {
            for shard in &self.shards {
                if self.has_room() {
                    return;
                }
                let mut claims = shard.lock().unwrap_or_else(PoisonError::into_inner);
                let gone = claims.open.extract_if(|_, entry| may_go(&entry.record)).count();
                self.open.fetch_sub(gone, Ordering::Relaxed);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.open.load(Ordering::Relaxed) < self.max_entries
    }

    fn claims(&self, key: &Key) -> MutexGuard<'_, Claims> {
        let [byte, ..] = key.as_bytes();
        let [first, ..] = &self.shards;
        let shard = self.shards.get(usize::from(*byte) % SHARDS).unwrap_or(first);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store's time: monotonic, counted from the beginning of the calendar's epoch.
fn store_time(now: Monotonic) -> Timestamp {
    Timestamp::UNIX_EPOCH.checked_add(now.0).unwrap_or(Timestamp::MAX)
}

impl Claims {
    fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    fn ended(&mut self, key: &Key, token: u64) {
        self.open.remove(key);
        if self.repeatable.len() == REPEATABLE_MAX {
            self.repeatable.pop_front();
        }
        self.repeatable.push_back((*key, token));
    }

    fn was_ended_by(&self, key: &Key, token: u64) -> bool {
        self.repeatable.iter().any(|(known, by)| *by == token && known == key)
    }
}

#[async_trait]
impl IdempotencyStore for MemoryStore {
    async fn claim(&self, key: &Key, wish: &Wish) -> Result<Claim, StoreError> {
        if !self.has_room() {
            self.make_room();
        }
        let (mut claims, now) = (self.claims(key), self.clock.monotonic());
        match self.ended.look(key, wish.fingerprint, now) {
            Sight::Done => return Ok(Claim::Settled),
            Sight::Other => return Ok(Claim::Conflict),
            Sight::Unknown => {}
        }
        let existing = claims.open.get(key).map(|entry| &entry.record);
        if existing.is_none() && !self.has_room() {
            return Err(StoreError::Unavailable(format!("all {} entries are claimed", self.max_entries)));
        }
        Ok(match judge(existing, wish, store_time(now)) {
            Verdict::Claim(record) => {
                let token = claims.next_token();
                if claims.open.insert(*key, Entry { token, record }).is_none() {
                    self.open.fetch_add(1, Ordering::Relaxed);
                }
                Claim::Claimed(Claimed { token, record })
            }
            Verdict::Settled => Claim::Settled,
            Verdict::Busy(remaining) => Claim::Busy(remaining),
            Verdict::Conflict => Claim::Conflict,
        })
    }

    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError> {
        let mut claims = self.claims(key);
        match claims.open.get(key) {
            Some(entry) if entry.token == claim.token => {}
            // Said before: a later claim has a higher number of attempts, so this record is the caller's own.
            Some(entry) if entry.record == *record => return Ok(()),
            None if claims.was_ended_by(key, claim.token) => return Ok(()),
            Some(_) | None => return Err(StoreError::Fenced),
        }
        if matches!(record.state, State::Done | State::Dead) {
            self.ended.note(key, record.fingerprint, self.clock.monotonic());
            claims.ended(key, claim.token);
            self.open.fetch_sub(1, Ordering::Relaxed);
        } else {
            // With a token of its own, so that the claim has ended.
            let token = claims.next_token();
            claims.open.insert(*key, Entry { token, record: *record });
        }
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}
