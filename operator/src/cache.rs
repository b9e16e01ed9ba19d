//! What is known of the objects of one kind: from its watch, and from the answers to our own writes.
//!
//! Guarantees: an older version never replaces a newer one, whichever way it comes; what the watch has told to be gone is
//! not brought back by an answer that comes late.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{key::Key, queue::Lane};

/// What is kept of an object.
pub trait Entry: Clone {
    /// Tells it from one of the same name before or after it.
    fn uid(&self) -> &str;
    /// Grows with each change of any object of the kind.
    fn version(&self) -> u64;
    /// The consumer that it belongs to.
    fn consumer(&self) -> Key;
    /// Where that consumer is to wait for a look because this is here now, and `before` was before it; nothing when the two
    /// are the same to it.
    fn calls(&self, before: Option<&Self>) -> Option<Lane>;
    /// Whether [`Cache::of`] is asked for this kind.
    const BY_CONSUMER: bool = false;
}

/// Whether what is known can be relied on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Sight {
    /// The first list has not come yet.
    #[default]
    Waiting,
    /// A list has come, and what has changed since then comes in moments.
    Clear,
    /// The API server refuses the list or the watch, and says why.
    Refused(String),
}

/// Whom to look at.
pub type Calls = Vec<(Key, Lane)>;

/// What is known of the objects of one kind.
#[derive(Debug)]
pub struct Cache<V> {
    state: Mutex<State<V>>,
}

#[derive(Debug)]
struct State<V> {
    entries: HashMap<Key, V>,
    /// What a list that is under way has brought so far.
    listed: HashMap<Key, V>,
    by_consumer: BTreeSet<(Key, Key)>,
    /// Version of the newest thing that the watch has told.
    told: u64,
    sight: Sight,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        let (entries, listed) = (HashMap::new(), HashMap::new());
        let state = State { entries, listed, by_consumer: BTreeSet::new(), told: 0, sight: Sight::default() };
        Self { state: Mutex::new(state) }
    }
}

impl<V: Entry> Cache<V> {
    /// The object `key`.
    pub fn get(&self, key: &Key) -> Option<V> {
        self.state().entries.get(key).cloned()
    }

    /// The objects of a consumer, by their names.
    pub fn of(&self, consumer: &Key) -> Vec<(Key, V)> {
        let state = self.state();
        let first = (consumer.clone(), Key::new("", ""));
        let keys = state.by_consumer.range(first..).take_while(|(owner, _)| owner == consumer);
        keys.filter_map(|(_, key)| Some((key.clone(), state.entries.get(key)?.clone()))).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what is known can be relied on.
    pub fn sight(&self) -> Sight {
        self.state().sight.clone()
    }

    /// A list begins.
    pub fn begin(&self) {
        self.state().listed = HashMap::new();
    }

    /// A part of a list has come.
    pub fn listed(&self, page: impl IntoIterator<Item = (Key, V)>) {
        self.state().listed.extend(page);
    }

    /// The list is complete, as of `version`. What it lacks is gone.
    pub fn complete(&self, version: u64) -> Calls {
        let mut state = self.state();
        let listed = std::mem::take(&mut state.listed);
        let before = std::mem::take(&mut state.entries);
        let mut calls: Calls = Vec::new();
        for (key, entry) in &listed {
            calls.extend(entry.calls(before.get(key)).map(|lane| (entry.consumer(), lane)));
        }
        let gone = before.iter().filter(|(key, _)| !listed.contains_key(*key));
        calls.extend(gone.map(|(_, entry)| (entry.consumer(), Lane::Back)));
        if V::BY_CONSUMER {
            state.by_consumer = listed.iter().map(|(key, entry)| (entry.consumer(), key.clone())).collect();
        }
        (state.entries, state.told) = (listed, version);
        calls
    }

    /// The watch tells of an object that is new or has changed.
    pub fn changed(&self, key: &Key, entry: V) -> Calls {
        let mut state = self.state();
        state.told = state.told.max(entry.version());
        state.insert(key, entry)
    }

    /// The watch tells of an object that is gone.
    pub fn gone(&self, key: &Key, version: u64) -> Calls {
        let mut state = self.state();
        state.told = state.told.max(version);
        let gone = state.remove(key);
        gone.map(|entry| (entry.consumer(), Lane::Back)).into_iter().collect()
    }

    /// The watch tells that there is nothing new up to `version`.
    pub fn up_to(&self, version: u64) {
        let mut state = self.state();
        state.told = state.told.max(version);
    }

    /// The answer to a write of ours. What the watch has told since then is newer: there it is left alone. What we wrote
    /// calls for no look; what somebody has changed meanwhile, and the answer shows, does.
    pub fn answered(&self, key: &Key, entry: V) -> Calls {
        let mut state = self.state();
        if entry.version() <= state.told {
            return Vec::new();
        }
        let mut calls = state.insert(key, entry);
        calls.retain(|(_, lane)| *lane == Lane::Front);
        calls
    }

    /// What is known can be relied on from now on, or no longer: says whether that is news.
    pub fn see(&self, sight: Sight) -> bool {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.sight, sight);
        before != state.sight
    }

    /// The consumers of all that is known.
    pub fn consumers(&self) -> Vec<Key> {
        self.state().entries.values().map(Entry::consumer).collect()
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Entry> State<V> {
    fn insert(&mut self, key: &Key, entry: V) -> Calls {
        let before = self.entries.get(key);
        if before.is_some_and(|before| before.version() >= entry.version()) {
            return Vec::new();
        }
        let mut calls: Calls = entry.calls(before).map(|lane| (entry.consumer(), lane)).into_iter().collect();
        let moved = before.map(Entry::consumer).filter(|consumer| *consumer != entry.consumer());
        if let Some(consumer) = moved {
            calls.push((consumer, Lane::Back));
            drop(self.remove(key));
        }
        if V::BY_CONSUMER {
            self.by_consumer.insert((entry.consumer(), key.clone()));
        }
        self.entries.insert(key.clone(), entry);
        calls
    }

    fn remove(&mut self, key: &Key) -> Option<V> {
        let gone = self.entries.remove(key)?;
        if V::BY_CONSUMER {
            self.by_consumer.remove(&(gone.consumer(), key.clone()));
        }
        Some(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Eq, PartialEq)]
    struct Thing {
        version: u64,
        consumer: &'static str,
    }

    impl Entry for Thing {
        const BY_CONSUMER: bool = true;
        fn uid(&self) -> &'static str {
            "uid"
        }
        fn version(&self) -> u64 {
            self.version
        }
        fn consumer(&self) -> Key {
            Key::new("shop", self.consumer)
        }
        fn calls(&self, _: Option<&Self>) -> Option<Lane> {
            Some(Lane::Back)
        }
    }

    fn key() -> Key {
        Key::new("shop", "thing")
    }

    fn thing(version: u64) -> Thing {
        Thing { version, consumer: "orders" }
    }

    #[test]
    fn the_newest_stays_and_what_is_gone_does_not_come_back() {
        let cache = Cache::default();
        assert!(cache.answered(&key(), thing(5)).is_empty(), "this is known to who wrote it");
        assert!(cache.changed(&key(), thing(4)).is_empty(), "the watch is behind");
        assert!(cache.changed(&key(), thing(5)).is_empty(), "this is the answer once more");
        assert_eq!(cache.get(&key()), Some(thing(5)));

        assert_eq!(cache.gone(&key(), 7).len(), 1);
        assert!(cache.answered(&key(), thing(6)).is_empty(), "it was deleted since then");
        assert_eq!(cache.get(&key()), None);
    }

    #[test]
    fn a_list_calls_for_what_is_new_and_for_what_is_gone() {
        let cache = Cache::default();
        drop(cache.changed(&key(), thing(1)));
        cache.begin();
        cache.listed([(Key::new("shop", "other"), Thing { version: 2, consumer: "mails" })]);
        assert_eq!(cache.get(&key()), Some(thing(1)), "a list that is under way changes nothing");

        let mut calls = cache.complete(3);

        calls.sort();
        let called = ["mails", "orders"].map(|name| (Key::new("shop", name), Lane::Back));
        assert_eq!(calls, called);
        assert_eq!((cache.len(), cache.of(&Key::new("shop", "orders")).len()), (1, 0));
    }

    #[test]
    fn an_object_that_goes_to_another_consumer_calls_for_both() {
        let cache = Cache::default();
        drop(cache.changed(&key(), thing(1)));
        let calls = cache.changed(&key(), Thing { version: 2, consumer: "mails" });
        assert_eq!(calls.len(), 2);
        let of = |name: &str| cache.of(&Key::new("shop", name)).len();
        assert_eq!((of("orders"), of("mails")), (0, 1));
    }
}
