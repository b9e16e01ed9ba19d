//! Claims in the memory of one process: for trying out, and for brokers that keep nothing either.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use millrace_core::{
    claim::{Record, State, Verdict, Wish, judge},
    key::Key,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
    time::{Clock, Monotonic},
};

/// Claims in memory. Bounded: when it is full the event that ended first is forgotten first.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    max_entries: usize,
    retention: Duration,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    /// Done and dead events in the order in which they ended, with the token that they ended under.
    ended: VecDeque<(Key, u64, Monotonic)>,
    last_token: u64,
}

struct Entry {
    token: u64,
    record: Record,
}

impl MemoryStore {
    /// An empty store that remembers at most `max_entries` events, ended ones for at most `retention`.
    pub fn new(clock: Arc<dyn Clock>, max_entries: usize, retention: Duration) -> Self {
        Self { clock, max_entries, retention, entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's time: monotonic, counted from the beginning of the calendar's epoch.
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH.checked_add(self.clock.monotonic().0).unwrap_or(Timestamp::MAX)
    }
}

impl Entries {
    /// Forgets what is older than `retention`, and the oldest ended events while there is no room for one more.
    fn make_room(&mut self, max_entries: usize, retention: Duration, now: Monotonic) {
        while let Some((key, token, ended_at)) = self.ended.front() {
            if now.since(*ended_at) < retention && self.by_key.len() < max_entries {
                return;
            }
            if self.by_key.get(key).is_some_and(|entry| entry.token == *token) {
                self.by_key.remove(key);
            }
            self.ended.pop_front();
        }
    }

    fn put(&mut self, key: &Key, record: Record) -> u64 {
        self.last_token += 1;
        self.by_key.insert(key.clone(), Entry { token: self.last_token, record });
        self.last_token
    }
}

#[async_trait]
impl IdempotencyStore for MemoryStore {
    async fn claim(&self, key: &Key, wish: &Wish<'_>) -> Result<Claim, StoreError> {
        let mut entries = self.entries();
        entries.make_room(self.max_entries, self.retention, self.clock.monotonic());
        let full = entries.by_key.len() >= self.max_entries;
        let existing = entries.by_key.get(key).map(|entry| &entry.record);
        if full && existing.is_none() {
            return Err(StoreError::Unavailable(format!("all {} entries are claimed", self.max_entries)));
        }
        Ok(match judge(existing, wish, self.now()) {
            Verdict::Claim(record) => {
                let token = entries.put(key, record.clone());
                Claim::Claimed(Claimed { token, record })
            }
            Verdict::Settled => Claim::Settled,
            Verdict::Busy(remaining) => Claim::Busy(remaining),
            Verdict::Conflict => Claim::Conflict,
        })
    }

    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError> {
        let mut entries = self.entries();
        match entries.by_key.get(key) {
            Some(entry) if entry.token == claim.token => {}
            // Said before: a later claim has a higher number of attempts, so this record is the caller's own.
            Some(entry) if entry.record == *record => return Ok(()),
            _ => return Err(StoreError::Fenced),
        }
        let token = entries.put(key, record.clone());
        if matches!(record.state, State::Done | State::Dead) {
            let now = self.clock.monotonic();
            entries.ended.push_back((key.clone(), token, now));
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
