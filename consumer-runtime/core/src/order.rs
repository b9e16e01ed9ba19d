//! Which deliveries are handled one after the other.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::{
    delivery::{Delivery, Position},
    pick::Pick,
};

/// Which deliveries are handled one after the other, in the order in which they came.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Ordering {
    /// None.
    #[default]
    Unordered,
    /// Those with the same value here. Those without one share their lane's order.
    Key(Pick),
    /// Those of the same lane.
    Lane,
}

/// Deliveries with the same order key are handled one after the other.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OrderKey {
    /// The order of the lane, for everything that has no key of its own.
    Lane(u32),
    /// A fingerprint of the value. Two values with the same one wait for each other, which does no harm.
    Value(u64),
}

impl Ordering {
    /// The order key of a delivery; nothing where it waits for no other.
    pub fn key(&self, delivery: &Delivery) -> Option<OrderKey> {
        match self {
            Self::Unordered => None,
            Self::Lane => Some(OrderKey::Lane(delivery.lane)),
            Self::Key(pick) => {
                let Some(value) = pick.from_delivery(delivery) else { return Some(OrderKey::Lane(delivery.lane)) };
                let mut hasher = DefaultHasher::new();
                value.hash(&mut hasher);
                Some(OrderKey::Value(hasher.finish()))
            }
        }
    }
}

/// Lets one delivery of each order key be at work, and holds its successors in the order in which they came.
///
/// The caller bounds how many it holds: whatever enters has its place in the window.
#[derive(Debug)]
pub struct Sequencer<T> {
    keys: HashMap<Position, OrderKey>,
    /// The successors of the delivery that is at work.
    waiting: HashMap<OrderKey, VecDeque<(Position, T)>>,
}

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self { keys: HashMap::new(), waiting: HashMap::new() }
    }
}

impl<T> Sequencer<T> {
    /// A delivery comes. It is returned if it may start; else it waits for those of its key that came before.
    pub fn enter(&mut self, key: OrderKey, position: Position, delivery: T) -> Option<T> {
        self.keys.insert(position, key);
        if let Some(successors) = self.waiting.get_mut(&key) {
            successors.push_back((position, delivery));
            return None;
        }
        self.waiting.insert(key, VecDeque::new());
        Some(delivery)
    }

    /// The delivery at this position is settled. Its successor is returned, which may start now.
    pub fn leave(&mut self, position: Position) -> Option<T> {
        let key = self.keys.remove(&position)?;
        let next = self.waiting.get_mut(&key)?.pop_front();
        if next.is_none() {
            self.waiting.remove(&key);
        }
        next.map(|(_, delivery)| delivery)
    }

    /// Everything that waits, in no order. What is at work has no successors any more.
    pub fn take_waiting(&mut self) -> Vec<T> {
        let waiting: Vec<_> = self.waiting.values_mut().flat_map(|successors| successors.drain(..)).collect();
        for (position, _) in &waiting {
            self.keys.remove(position);
        }
        waiting.into_iter().map(|(_, delivery)| delivery).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Deliveries come and end in any order; those of a key start in the order in which they came, one at a time.
        #[test]
        fn of_each_key_one_is_at_work_and_all_start_in_the_order_in_which_they_came(
            steps in prop::collection::vec((any::<bool>(), 0_u64..4, any::<prop::sample::Index>()), 0..200)
        ) {
            let mut sequencer = Sequencer::default();
            let (mut at_work, mut started) = (Vec::new(), BTreeMap::<u64, Vec<u64>>::new());
            let mut entered = 0;
            for (enters, key, index) in steps {
                let starts = if enters || at_work.is_empty() {
                    entered += 1;
                    sequencer.enter(OrderKey::Value(key), Position(entered), (key, entered))
                } else {
                    let (_, position) = at_work.remove(index.index(at_work.len()));
                    sequencer.leave(Position(position))
                };
                if let Some((key, position)) = starts {
                    prop_assert!(at_work.iter().all(|(other, _)| *other != key), "two of one key at work");
                    at_work.push((key, position));
                    started.entry(key).or_default().push(position);
                }
            }
            while let Some((_, position)) = at_work.pop() {
                if let Some((key, position)) = sequencer.leave(Position(position)) {
                    at_work.push((key, position));
                    started.entry(key).or_default().push(position);
                }
            }
            prop_assert_eq!(started.values().map(Vec::len).sum::<usize>(), usize::try_from(entered).unwrap());
            prop_assert!(started.values().all(|positions| positions.is_sorted()));
            prop_assert!(sequencer.keys.is_empty() && sequencer.waiting.is_empty(), "nothing is remembered");
        }
    }

    #[test]
    fn what_is_taken_away_is_no_longer_anybody_s_successor() {
        let mut sequencer = Sequencer::default();
        for position in 1..=3 {
            sequencer.enter(OrderKey::Lane(0), Position(position), position);
        }

        assert_eq!(sequencer.take_waiting(), [2, 3]);

        assert_eq!(sequencer.leave(Position(1)), None);
        assert_eq!(sequencer.enter(OrderKey::Lane(0), Position(4), 4), Some(4));
    }
}
