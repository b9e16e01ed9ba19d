//! What is to be looked at next: two lanes, and a time for what is to be looked at later.
//!
//! `kube`'s own scheduler keeps what waits in a set without an order. Behind 10,000 new objects an edit would wait for half
//! of them, and one that waits already cannot be brought forward. Here an edit has a lane of its own.
//!
//! Guarantees: a key is in one place at a time, so nothing is looked at twice at once; what is pushed while it is looked at
//! is looked at again; neither lane starves the other; within a lane the first comes first.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use crate::key::Key;

/// Of so many in a row one is taken from the back lane, when something waits there: edits without end must not keep others
/// from being looked at.
const FRONT_IN_A_ROW: u8 = 3;

/// Where a key waits.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// Behind all that is routine: what a list has brought, what is due, what the cluster itself has changed.
    Back,
    /// Somebody has changed something and waits for it.
    Front,
}

/// What is to be looked at next. Bounded by the number of objects: each has one place.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    pushed: Notify,
}

#[derive(Debug, Default)]
struct State {
    front: VecDeque<Key>,
    back: VecDeque<Key>,
    /// Where each key is. An entry of a lane that says otherwise is passed over.
    places: HashMap<Key, Place>,
    later: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    in_a_row: u8,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Waits(Lane),
    AtWork { again: Option<Lane> },
}

impl Queue {
    /// Looks at `key` as soon as its lane allows. One that waits in the back lane is brought forward, never sent back.
    pub fn push(&self, key: &Key, lane: Lane) {
        self.state().push(key, lane);
        self.pushed.notify_one();
    }

    /// Looks at `key` at `time`, or before it when it is to be looked at earlier already.
    pub fn push_at(&self, key: &Key, time: Instant) {
        self.state().push_at(key, time);
        self.pushed.notify_one();
    }

    /// Takes the next key. It is at work until [`Queue::done`], and what was planned for it later is forgotten: who looks at
    /// it plans anew.
    pub fn pop(&self, now: Instant) -> Option<Key> {
        self.state().pop(now)
    }

    /// Whether there may be something for [`Queue::pop`].
    pub fn has_work(&self, now: Instant) -> bool {
        let mut state = self.state();
        state.wake(now);
        !(state.front.is_empty() && state.back.is_empty())
    }

    /// `key` has been looked at.
    pub fn done(&self, key: &Key) {
        let mut state = self.state();
        if let Some(Place::AtWork { again: Some(lane) }) = state.places.remove(key) {
            state.push(key, lane);
            self.pushed.notify_one();
        }
    }

    /// `key` is no more.
    pub fn forget(&self, key: &Key) {
        self.state().forget(key);
    }

    /// Waits until something is pushed, or until what is to be looked at later is due.
    pub async fn changed(&self) {
        let pushed = self.pushed.notified();
        let next = self.state().later.first().map(|(time, _)| *time);
        match next {
            Some(time) => tokio::select! {
                () = pushed => {}
                () = tokio::time::sleep_until(time) => {}
            },
            None => pushed.await,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, key: &Key, lane: Lane) {
        match self.places.get_mut(key) {
            Some(Place::AtWork { again }) => *again = (*again).max(Some(lane)),
            Some(Place::Waits(place)) if *place >= lane => {}
            _ => {
                self.places.insert(key.clone(), Place::Waits(lane));
                self.lane(lane).push_back(key.clone());
            }
        }
    }

    fn push_at(&mut self, key: &Key, time: Instant) {
        match self.due.get(key) {
            Some(before) if *before <= time => return,
            Some(before) => drop(self.later.remove(&(*before, key.clone()))),
            None => {}
        }
        self.due.insert(key.clone(), time);
        self.later.insert((time, key.clone()));
    }

    fn pop(&mut self, now: Instant) -> Option<Key> {
        self.wake(now);
        loop {
            let front = !self.front.is_empty() && (self.in_a_row < FRONT_IN_A_ROW || self.back.is_empty());
            let lane = if front { Lane::Front } else { Lane::Back };
            let key = self.lane(lane).pop_front()?;
            if self.places.get(&key) == Some(&Place::Waits(lane)) {
                self.in_a_row = if front { self.in_a_row.saturating_add(1) } else { 0 };
                self.forget(&key);
                self.places.insert(key.clone(), Place::AtWork { again: None });
                return Some(key);
            }
        }
    }

    /// Moves what is due to the back lane.
    fn wake(&mut self, now: Instant) {
        while let Some((time, _)) = self.later.first() {
            if *time > now {
                return;
            }
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.push(&key, Lane::Back);
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(time) = self.due.remove(key) {
            self.later.remove(&(time, key.clone()));
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Key> {
        match lane {
            Lane::Front => &mut self.front,
            Lane::Back => &mut self.back,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(name: impl std::fmt::Display) -> Key {
        Key::new("shop", &name.to_string())
    }

    #[tokio::test]
    async fn an_edit_passes_ten_thousand_that_are_routine_and_does_not_starve_them() {
        let (queue, now) = (Queue::default(), Instant::now());
        for number in 0..10_000 {
            queue.push(&key(number), Lane::Back);
        }
        queue.push(&key(9_999), Lane::Front);
        assert_eq!(queue.pop(now), Some(key(9_999)), "it is brought forward though it waited");
        assert_eq!(queue.pop(now), Some(key(0)));

        for number in 0..8 {
            queue.push(&key(format_args!("edit-{number}")), Lane::Front);
        }
        let next: Vec<_> = (0..8).filter_map(|_| queue.pop(now)).map(|key| key.name().to_owned()).collect();
        assert_eq!(next, ["edit-0", "edit-1", "edit-2", "1", "edit-3", "edit-4", "edit-5", "2"]);
        let rest = std::iter::from_fn(|| queue.pop(now)).count();
        assert_eq!(rest, 2 + 9_996, "each is taken once");
    }

    #[tokio::test]
    async fn what_is_pushed_while_it_is_looked_at_is_looked_at_again_and_never_twice_at_once() {
        let (queue, now) = (Queue::default(), Instant::now());
        queue.push(&key("a"), Lane::Back);
        assert_eq!(queue.pop(now), Some(key("a")));
        queue.push(&key("a"), Lane::Front);
        queue.push(&key("a"), Lane::Back);
        assert_eq!(queue.pop(now), None);
        assert!(!queue.has_work(now));

        queue.done(&key("a"));
        assert_eq!((queue.pop(now), queue.pop(now)), (Some(key("a")), None));
        queue.done(&key("a"));
        assert_eq!(queue.pop(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_planned_comes_at_the_earliest_of_its_times_and_a_look_before_it_plans_anew() {
        let (queue, start) = (Queue::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        queue.push_at(&key("a"), after(10));
        queue.push_at(&key("a"), after(5));
        queue.push_at(&key("a"), after(7));
        assert_eq!(queue.pop(after(4)), None);
        queue.changed().await;
        queue.changed().await;
        assert_eq!(Instant::now().duration_since(start), Duration::from_secs(5));
        assert_eq!(queue.pop(after(5)), Some(key("a")));
        queue.done(&key("a"));
        assert_eq!(queue.pop(after(100)), None, "the later times are forgotten");

        queue.push_at(&key("a"), after(200));
        queue.push(&key("a"), Lane::Front);
        assert_eq!(queue.pop(after(100)), Some(key("a")));
        queue.done(&key("a"));
        assert_eq!(queue.pop(after(300)), None);
    }
}
