//! Which events are done, as far as this process has seen: sets of fingerprints with a fixed capacity.
//!
//! Each event takes 24 bytes in a table that is filled to three quarters at most: 32 bytes an event. A set forgets by
//! generation: when the youngest is full, or as old as the retention, a new one begins and the oldest goes. So of the
//! `capacity` events that it was made for it remembers the last half at least, and those of the retention as far as they
//! fit.
//!
//! An event is known by 128 bits of a keyed hash of its key: nobody who chooses ids can make two of them look alike, or make
//! the tables slow.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    key::{Fingerprint, Key},
    time::Monotonic,
};

/// Parts with a lock each, so that two workers seldom wait for each other.
const SHARDS: usize = 8;

/// Generations of a shard. Each costs a look at every lookup; what is forgotten at once is one of them.
const GENERATIONS: usize = 2;

/// Places that take memory together, when the first of them is filled. Memory that is read before it is written is mapped twice
/// by the system, and the second time every other thread is stopped for it.
const PIECE: usize = 128;

/// What is known of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sight {
    /// Nothing. It may be done all the same.
    Unknown,
    /// It is done.
    Done,
    /// Another event with the same key is done.
    Other,
}

/// Which events are done. Its memory is taken as it fills, and bounded.
#[derive(Debug)]
pub struct Seen {
    /// Two for an event's key, one for what it says.
    secrets: [Secret; 3],
    shards: Vec<Mutex<Shard>>,
}

/// Random numbers that nobody else knows.
#[derive(Debug)]
struct Secret([u64; 4]);

/// An event, as the tables know it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Mark {
    /// Of its key. Never zero: that is an empty place.
    key: (u64, u64),
    /// Of what it says.
    content: u64,
}

#[derive(Debug)]
struct Shard {
    capacity: usize,
    retention: Duration,
    /// The youngest first.
    generations: Vec<Generation>,
}

#[derive(Debug)]
struct Generation {
    /// Places in all.
    length: usize,
    /// The places. A piece of which none was filled is empty.
    pieces: Vec<Vec<[u64; 3]>>,
    used: usize,
    began: Monotonic,
    /// When the last event came in.
    last: Monotonic,
}

impl Seen {
    /// An empty set for `capacity` events, which are remembered for `retention` at least if they fit.
    pub fn new(capacity: usize, retention: Duration) -> Self {
        let capacity = capacity.div_ceil(SHARDS).div_ceil(GENERATIONS).max(1);
        let shard = || Mutex::new(Shard { capacity, retention, generations: Vec::new() });
        Self { secrets: std::array::from_fn(|_| Secret::new()), shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// What is known of the event with this key that says what `fingerprint` stands for.
    pub fn look(&self, key: &Key, fingerprint: Fingerprint, now: Monotonic) -> Sight {
        let mark = self.mark(key, fingerprint);
        self.with_shard(mark, |shard| shard.look(mark, now)).unwrap_or(Sight::Unknown)
    }

    /// Notes that an event is done.
    pub fn note(&self, key: &Key, fingerprint: Fingerprint, now: Monotonic) {
        let mark = self.mark(key, fingerprint);
        self.with_shard(mark, |shard| shard.note(mark, now));
    }

    fn mark(&self, key: &Key, fingerprint: Fingerprint) -> Mark {
        let [first, second, content] = &self.secrets;
        let (words, said) = (words(key.as_bytes()), words(fingerprint.as_bytes()));
        Mark { key: (first.hash(words), second.hash(words).max(1)), content: content.hash(said) }
    }

    fn with_shard<T>(&self, mark: Mark, work: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        // The table below it takes other bits.
        let index = usize::try_from(mark.key.1).unwrap_or_default() % SHARDS;
        let shard = self.shards.get(index)?;
        Some(work(&mut shard.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Secret {
    fn new() -> Self {
        // Its keys are the system's random numbers.
        let random = RandomState::new();
        Self(std::array::from_fn(|index| random.hash_one(index)))
    }

    /// NH: the chance that two texts have the same one is tiny whatever the texts are, as long as nobody knows the secret.
    /// They all have the same length.
    fn hash(&self, words: [u64; 4]) -> u64 {
        let [first, second, third, fourth] = std::array::from_fn(|place| {
            let word = |words: &[u64; 4]| words.get(place).copied().unwrap_or_default();
            u128::from(word(&words).wrapping_add(word(&self.0)))
        });
        let sum = first.wrapping_mul(second).wrapping_add(third.wrapping_mul(fourth));
        u64::try_from((sum ^ (sum >> 64)) & u128::from(u64::MAX)).unwrap_or_default()
    }
}

/// 32 bytes as numbers.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

impl Shard {
    fn look(&mut self, mark: Mark, now: Monotonic) -> Sight {
        self.forget(now);
        let found = self.generations.iter().find_map(|generation| generation.find(mark.key));
        match found {
            None => Sight::Unknown,
            Some(content) if content == mark.content => Sight::Done,
            Some(_) => Sight::Other,
        }
    }

    fn note(&mut self, mark: Mark, now: Monotonic) {
        self.forget(now);
        let is_over =
            |youngest: &Generation| youngest.used >= self.capacity || now.since(youngest.began) >= self.retention;
        if self.generations.first().is_none_or(is_over) {
            self.generations.truncate(GENERATIONS - 1);
            self.generations.insert(0, Generation::new(self.capacity, now));
        }
        if let Some(youngest) = self.generations.first_mut() {
            youngest.insert(mark, now);
        }
    }

    /// Generations whose last event is older than the retention.
    fn forget(&mut self, now: Monotonic) {
        while self.generations.last().is_some_and(|oldest| now.since(oldest.last) >= self.retention) {
            self.generations.pop();
        }
    }
}

impl Generation {
    fn new(capacity: usize, now: Monotonic) -> Self {
        let length = capacity.saturating_mul(4).div_ceil(3).max(2);
        Self { length, pieces: vec![Vec::new(); length.div_ceil(PIECE)], used: 0, began: now, last: now }
    }

    /// The places where a key may be: from where its hash points on.
    fn probe(&self, key: (u64, u64)) -> impl Iterator<Item = usize> + use<> {
        // The upper half of the product spreads evenly over any length.
        let wide = u128::from(key.0).saturating_mul(u128::try_from(self.length).unwrap_or_default()) >> 64;
        let start = usize::try_from(wide).unwrap_or_default();
        (start..self.length).chain(0..start)
    }

    /// A place; nothing in a piece of which none was filled.
    fn place(&self, index: usize) -> Option<&[u64; 3]> {
        self.pieces.get(index / PIECE)?.get(index % PIECE)
    }

    /// A place that is to be filled.
    fn place_mut(&mut self, index: usize) -> Option<&mut [u64; 3]> {
        let piece = self.pieces.get_mut(index / PIECE)?;
        if piece.is_empty() {
            let before = index.saturating_sub(index % PIECE);
            *piece = vec![[0; 3]; self.length.saturating_sub(before).min(PIECE)];
        }
        piece.get_mut(index % PIECE)
    }

    fn find(&self, key: (u64, u64)) -> Option<u64> {
        for index in self.probe(key) {
            match self.place(index)? {
                [_, 0, _] => return None,
                [low, high, content] if (*low, *high) == key => return Some(*content),
                _ => {}
            }
        }
        None
    }

    fn insert(&mut self, mark: Mark, now: Monotonic) {
        self.last = now;
        for index in self.probe(mark.key) {
            let Some(place) = self.place_mut(index) else { return };
            let [low, high, _] = *place;
            if high == 0 || (low, high) == mark.key {
                *place = [mark.key.0, mark.key.1, mark.content];
                self.used = self.used.saturating_add(usize::from(high == 0));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::key::ConsumerName;

    const RETENTION: Duration = Duration::from_secs(100);
    const A: Fingerprint = Fingerprint::literal(b"a");
    const B: Fingerprint = Fingerprint::literal(b"b");

    fn key(number: u16) -> Key {
        let consumer = ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() };
        Key::of_value(&consumer, &number.to_be_bytes())
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    #[test]
    fn the_last_half_of_the_capacity_is_remembered_and_no_more_than_it_was_made_for_is_kept() {
        let seen = Seen::new(8_000, RETENTION);
        for number in 0..20_000 {
            seen.note(&key(number), A, at(1));
        }

        // A shard may have got a tenth more than its share.
        let remembered = |number| seen.look(&key(number), A, at(1)) == Sight::Done;
        assert!((16_500..20_000).all(remembered));
        let known = (0..20_000).filter(|number| remembered(*number)).count();
        assert!(known <= 8_000, "{known}");
        let places: usize = seen
            .shards
            .iter()
            .flat_map(|shard| shard.lock().unwrap().generations.iter().map(|one| one.length).collect::<Vec<_>>())
            .sum();
        assert!(places * size_of::<[u64; 3]>() <= 8_000 * 33, "{places}");
    }

    #[test]
    fn an_event_is_forgotten_when_its_generation_is_older_than_the_retention() {
        let seen = Seen::new(1_000, RETENTION);
        seen.note(&key(1), A, at(0));
        assert_eq!(seen.look(&key(1), A, at(99)), Sight::Done);
        assert_eq!(seen.look(&key(1), A, at(100)), Sight::Unknown);
    }

    proptest! {
        /// Against a model that never forgets: what the set knows is true, and within its bounds it knows all.
        #[test]
        fn what_is_remembered_is_what_was_noted_last(
            steps in prop::collection::vec((0_u16..300, prop::sample::select(vec![A, B]), 0_u64..3), 0..400),
            capacity in 1_usize..2_000,
        ) {
            let seen = Seen::new(capacity, RETENTION);
            let mut model: HashMap<u16, (Fingerprint, u64)> = HashMap::new();
            let mut now = 0;
            for (number, content, wait) in steps {
                now += wait;
                let sight = seen.look(&key(number), content, at(now));
                match model.get(&number) {
                    None => prop_assert_eq!(sight, Sight::Unknown),
                    Some((noted, _)) if *noted == content => prop_assert_ne!(sight, Sight::Other),
                    Some(_) => prop_assert_ne!(sight, Sight::Done),
                }
                // A shard gets an uneven share of so few.
                if let Some((noted, noted_at)) = model.get(&number) && capacity >= 1_600 && now - noted_at < 100 {
                    prop_assert_eq!(sight == Sight::Done, *noted == content);
                }
                seen.note(&key(number), content, at(now));
                model.insert(number, (content, now));
            }
        }
    }
}
