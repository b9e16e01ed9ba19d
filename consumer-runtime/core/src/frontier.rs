//! What of a lane may be committed: the position below which everything is settled, and what is settled above it.
//!
//! Offsets are taken as they are delivered and never counted on: compaction, aborted transactions and control records
//! leave gaps. Nothing is delivered between two neighbours of the delivered order, so the lowest unfinished delivery is
//! itself the position to commit.

use std::collections::VecDeque;

use crate::{delivery::Place, settled_ahead::SettledAhead};

/// Deliveries that may be settled behind an unfinished one before their places are looked through and given up.
const SETTLED_KEPT: usize = 64;

/// The frontier of one lane during one assignment, its epoch.
///
/// Guarantees: what may be committed never passes an unfinished delivery and never goes back; a word about another epoch
/// changes nothing. Memory is that of the unfinished deliveries, which the window bounds: what is finished above them
/// costs nothing.
#[derive(Debug)]
pub struct Frontier {
    epoch: u64,
    /// Where this assignment started.
    start: i64,
    /// What an earlier reader had settled above the start.
    settled_before: SettledAhead,
    /// The unfinished deliveries by offset, the first of them in front, and between them some that are settled since: at
    /// most as many as are unfinished, and [`SETTLED_KEPT`] more.
    held: VecDeque<Held>,
    /// How many of the held are unfinished.
    unfinished: usize,
    /// How many of the unfinished were let go of.
    let_go: usize,
    /// The highest offset delivered or skipped.
    highest: Option<i64>,
    /// How many were delivered or skipped.
    count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    offset: i64,
    /// Its number in the order of delivery.
    number: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    AtWork,
    LetGo,
    Settled,
}

/// What an offset that the broker sends is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// A delivery.
    New,
    /// Settled by an earlier reader: it is not delivered again.
    Settled,
    /// Behind what was delivered: the log was cut or made anew, and this assignment's order has ended. Nothing is noted.
    Behind,
}

/// What a commit is to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Commit {
    /// The position: everything below it is settled.
    pub position: i64,
    /// What is settled above it, as text for the commit's metadata.
    pub settled_ahead: String,
}

impl Frontier {
    /// The frontier of a lane that is read from `start` on, with what an earlier reader has settled above that.
    pub fn new(epoch: u64, start: i64, settled_before: SettledAhead) -> Self {
        let held = VecDeque::new();
        Self { epoch, start, settled_before, held, unfinished: 0, let_go: 0, highest: None, count: 0 }
    }

    /// The epoch that this frontier belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Notes an offset that the broker sends.
    pub fn arrive(&mut self, offset: i64) -> Arrival {
        if offset < self.start || self.highest.is_some_and(|highest| offset <= highest) {
            return Arrival::Behind;
        }
        self.highest = Some(offset);
        self.count = self.count.saturating_add(1);
        if self.settled_before.contains(offset) {
            return Arrival::Settled;
        }
        self.held.push_back(Held { offset, number: self.count, state: State::AtWork });
        self.unfinished = self.unfinished.saturating_add(1);
        Arrival::New
    }

    /// Notes that a delivery is settled. Whether that is news.
    pub fn settle(&mut self, place: &Place) -> bool {
        let Some(held) = self.find(place) else { return false };
        let was = std::mem::replace(&mut held.state, State::Settled);
        if was == State::Settled {
            return false;
        }
        self.unfinished = self.unfinished.saturating_sub(1);
        if was == State::LetGo {
            self.let_go = self.let_go.saturating_sub(1);
        }
        self.give_up_settled();
        true
    }

    /// Notes that nobody here works on a delivery any more though it is not settled: it holds the frontier for the next
    /// reader.
    pub fn let_go(&mut self, place: &Place) {
        if let Some(held) = self.find(place)
            && held.state == State::AtWork
        {
            held.state = State::LetGo;
            self.let_go = self.let_go.saturating_add(1);
        }
    }

    /// Deliveries that somebody here works on.
    pub fn at_work(&self) -> usize {
        self.unfinished.saturating_sub(self.let_go)
    }

    /// Deliveries since the first unfinished one, itself included.
    pub fn ahead(&self) -> u64 {
        let first = self.held.front();
        first.map_or(0, |first| self.count.saturating_sub(first.number).saturating_add(1))
    }

    /// The position that may be committed: that of the lowest unfinished delivery; else the one after the highest.
    pub fn position(&self) -> i64 {
        self.held.front().map_or_else(|| self.taken(), |lowest| lowest.offset)
    }

    /// The position after everything that was delivered.
    pub fn taken(&self) -> i64 {
        self.highest.map_or(self.start, |highest| highest.saturating_add(1))
    }

    /// What a commit is to say, with at most `metadata_bytes` of what is settled above its position.
    pub fn commit(&self, metadata_bytes: usize) -> Commit {
        let position = self.position();
        let taken = self.taken();
        // What an earlier reader had settled and the broker has not sent yet is still to be told.
        let before = self.settled_before.from(taken);
        let unfinished = self.held.iter().filter(|held| held.state != State::Settled).map(|held| held.offset);
        let settled = SettledAhead::between(position, taken, unfinished).followed_by(&before);
        Commit { position, settled_ahead: settled.encode(position, metadata_bytes) }
    }

    /// The delivery at a place, while its own is not given up.
    fn find(&mut self, place: &Place) -> Option<&mut Held> {
        if place.epoch != self.epoch {
            return None;
        }
        // Where nothing is missing between the first and this one, it is as far behind it as its offset says; else it is
        // further in front.
        let first = self.held.front()?.offset;
        let most = usize::try_from(place.offset.checked_sub(first)?).ok()?;
        if self.held.get(most).is_some_and(|held| held.offset == place.offset) {
            return self.held.get_mut(most);
        }
        let index = self.held.binary_search_by_key(&place.offset, |held| held.offset).ok()?;
        self.held.get_mut(index)
    }

    /// Gives up the places of settled deliveries: those in front, and the others when they are more than the rest, so that
    /// each costs little to give up.
    fn give_up_settled(&mut self) {
        while self.held.front().is_some_and(|held| held.state == State::Settled) {
            self.held.pop_front();
        }
        if self.held.len() > self.unfinished.saturating_mul(2).saturating_add(SETTLED_KEPT) {
            self.held.retain(|held| held.state != State::Settled);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const EPOCH: u64 = 7;

    fn place(offset: i64) -> Place {
        Place { lane: 0, epoch: EPOCH, offset }
    }

    fn frontier() -> Frontier {
        Frontier::new(EPOCH, 0, SettledAhead::default())
    }

    #[test]
    fn a_slow_delivery_holds_the_frontier_and_what_is_settled_behind_it_survives_a_restart() {
        let mut first = frontier();
        for offset in 0..=100_000 {
            assert_eq!(first.arrive(offset), Arrival::New);
        }
        for offset in (0..=100_000).filter(|offset| *offset != 3) {
            assert!(first.settle(&place(offset)));
        }
        let commit = first.commit(4096);
        assert_eq!((commit.position, first.ahead(), first.at_work()), (3, 99_998, 1));
        assert!(commit.settled_ahead.len() < 32, "{}", commit.settled_ahead);
        assert!(first.held.len() <= 2 + SETTLED_KEPT, "what is settled behind it is kept: {}", first.held.len());

        let settled = SettledAhead::decode(&commit.settled_ahead, commit.position).unwrap();
        let mut next = Frontier::new(EPOCH + 1, commit.position, settled);
        let again: Vec<i64> = (3..=100_002).filter(|offset| next.arrive(*offset) == Arrival::New).collect();

        assert_eq!(again, [3, 100_001, 100_002]);
    }

    #[test]
    fn a_log_that_was_cut_is_noticed_and_nothing_of_it_is_taken_for_settled() {
        let mut frontier = Frontier::new(EPOCH, 10, SettledAhead::default());
        assert_eq!(frontier.arrive(12), Arrival::New);

        assert_eq!(
            (frontier.arrive(12), frontier.arrive(11), frontier.arrive(3)),
            (Arrival::Behind, Arrival::Behind, Arrival::Behind)
        );
        assert_eq!(frontier.position(), 12);
    }

    #[test]
    fn what_is_let_go_of_is_not_at_work_and_is_not_passed() {
        let mut frontier = frontier();
        for offset in 0..3 {
            frontier.arrive(offset);
        }
        frontier.let_go(&place(1));
        frontier.let_go(&place(1));
        frontier.settle(&place(0));

        assert_eq!((frontier.at_work(), frontier.position()), (1, 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// The broker sends the offset this far above the last.
        Arrive(i64),
        Settle(prop::sample::Index),
        SettleOfOtherEpoch(prop::sample::Index),
        LetGo(prop::sample::Index),
        /// The process dies; the next one begins with what was committed, and the broker sends again from there.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1_i64..5).prop_map(Step::Arrive),
            4 => any::<prop::sample::Index>().prop_map(Step::Settle),
            1 => any::<prop::sample::Index>().prop_map(Step::SettleOfOtherEpoch),
            1 => any::<prop::sample::Index>().prop_map(Step::LetGo),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        /// Against a model: the log that the broker has, and the set of what was settled.
        #[test]
        fn the_frontier_never_passes_an_unfinished_delivery_nor_goes_back_and_nothing_is_lost(
            steps in steps(),
            metadata_bytes in 0_usize..60,
        ) {
            let (mut frontier, mut epoch) = (frontier(), EPOCH);
            let mut log: Vec<i64> = Vec::new();
            let (mut settled, mut delivered, mut committed, mut next) = (BTreeSet::new(), Vec::new(), 0, 0);
            for step in steps {
                match step {
                    Step::Arrive(gap) => {
                        // What is in the log already is sent first.
                        let offset = log.get(next).copied().unwrap_or_else(|| {
                            log.push(log.last().copied().unwrap_or(-1) + gap);
                            *log.last().unwrap()
                        });
                        next += 1;
                        match frontier.arrive(offset) {
                            Arrival::New => delivered.push(offset),
                            Arrival::Settled => prop_assert!(settled.contains(&offset), "{offset} was never settled"),
                            Arrival::Behind => prop_assert!(false, "the order was kept"),
                        }
                    }
                    Step::Settle(index) if !delivered.is_empty() => {
                        let offset = delivered[index.index(delivered.len())];
                        prop_assert_eq!(frontier.settle(&Place { lane: 0, epoch, offset }), settled.insert(offset));
                    }
                    Step::SettleOfOtherEpoch(index) if !delivered.is_empty() => {
                        let offset = delivered[index.index(delivered.len())];
                        let at_work = frontier.at_work();
                        let stale = frontier.settle(&Place { lane: 0, epoch: epoch - 1, offset });
                        prop_assert!(!stale);
                        prop_assert_eq!(frontier.at_work(), at_work);
                    }
                    Step::LetGo(index) if !delivered.is_empty() => {
                        frontier.let_go(&Place { lane: 0, epoch, offset: delivered[index.index(delivered.len())] });
                    }
                    Step::Restart => {
                        let Commit { position, settled_ahead } = frontier.commit(metadata_bytes);
                        prop_assert!(settled_ahead.len() <= metadata_bytes);
                        let before = SettledAhead::decode(&settled_ahead, position).unwrap_or_default();
                        epoch += 1;
                        frontier = Frontier::new(epoch, position, before);
                        next = log.partition_point(|offset| *offset < position);
                        // What is not told again may be delivered, and settled, once more.
                        let forgotten = |offset: &i64| *offset >= position && !frontier.settled_before.contains(*offset);
                        settled.retain(|offset| !forgotten(offset));
                        delivered.clear();
                    }
                    Step::Settle(_) | Step::SettleOfOtherEpoch(_) | Step::LetGo(_) => {}
                }
                let position = frontier.position();
                prop_assert!(position >= committed, "went back from {committed} to {position}");
                committed = position;
                for offset in log.iter().filter(|offset| **offset < position) {
                    prop_assert!(settled.contains(offset), "{position} is past {offset}, which is not settled");
                }
            }
        }
    }
}
