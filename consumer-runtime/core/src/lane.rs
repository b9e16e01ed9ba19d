//! The deliveries that this process holds: taken from the broker and not yet settled.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    delivery::{Position, Receipt},
    settle::{AckDeadline, Settlement},
    time::Monotonic,
};

/// The deliveries of one source that this process holds.
///
/// Guarantees: a position is held at most once; every position that is begun stays until it is ended exactly once; and
/// what is to be sent for it respects its ack deadline. The window bounds how many there are.
#[derive(Debug)]
pub struct Lane {
    ack_wait: Option<Duration>,
    held: BTreeMap<Position, Held>,
}

#[derive(Debug)]
struct Held {
    receipt: Receipt,
    deadline: AckDeadline,
    extend_at: Option<Monotonic>,
}

/// What beginning a delivery found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Begun {
    /// It is new here: handle it.
    New,
    /// This process has it at work already: drop this copy. Its deadline starts again, because the broker's did.
    AlreadyHeld,
}

impl Lane {
    /// An empty lane. `ack_wait` is the time that the broker waits for a settlement, `None` where it waits for none.
    pub fn new(ack_wait: Option<Duration>) -> Self {
        Self { ack_wait, held: BTreeMap::new() }
    }

    /// Registers a delivery received at `now`.
    pub fn begin(&mut self, position: Position, receipt: Receipt, now: Monotonic) -> Begun {
        let held = Held { receipt, deadline: AckDeadline::new(now, self.ack_wait), extend_at: self.extend_at(now) };
        match self.held.insert(position, held) {
            None => Begun::New,
            Some(_) => Begun::AlreadyHeld,
        }
    }

    /// The receipt to send `settlement` with, or `None` when it must not be sent: the deadline has passed, or the
    /// position is not held.
    pub fn permit(&self, position: Position, settlement: Settlement, now: Monotonic) -> Option<&Receipt> {
        let held = self.held.get(&position)?;
        held.deadline.allows(settlement, now).then_some(&held.receipt)
    }

    /// Ends a position. Whether it was held.
    pub fn end(&mut self, position: Position) -> bool {
        self.held.remove(&position).is_some()
    }

    /// The deliveries whose extension is due at `now`; their deadlines start again, so the caller must send each.
    ///
    /// One whose deadline has passed is left out: the broker has given it to somebody else or will do so.
    pub fn extend(&mut self, now: Monotonic) -> Vec<Receipt> {
        let (ack_wait, next) = (self.ack_wait, self.extend_at(now));
        let due = self
            .held
            .values_mut()
            .filter(|held| held.extend_at.is_some_and(|at| at <= now) && held.deadline.allows(Settlement::Extend, now));
        due.map(|held| {
            held.deadline = AckDeadline::new(now, ack_wait);
            held.extend_at = next;
            held.receipt.clone()
        })
        .collect()
    }

    /// How many deliveries are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn extend_at(&self, now: Monotonic) -> Option<Monotonic> {
        self.ack_wait.map(|wait| now.after(wait.checked_div(3).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACK_WAIT: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn receipt(name: u64) -> Receipt {
        Receipt::Reply(name.to_string())
    }

    #[test]
    fn a_slow_delivery_is_extended_every_third_of_the_ack_wait() {
        let mut lane = Lane::new(Some(ACK_WAIT));
        lane.begin(Position(1), receipt(1), at(0));

        let extended: Vec<u64> = (0..60).filter(|second| !lane.extend(at(*second)).is_empty()).collect();

        assert_eq!(extended, [10, 20, 30, 40, 50]);
    }

    #[test]
    fn a_delivery_whose_deadline_has_passed_is_neither_extended_nor_handed_back() {
        let mut lane = Lane::new(Some(ACK_WAIT));
        lane.begin(Position(1), receipt(1), at(0));

        assert_eq!(lane.extend(at(40)), []);
        assert_eq!(lane.permit(Position(1), Settlement::RetryAfter(Duration::ZERO), at(40)), None);
        assert_eq!(lane.permit(Position(1), Settlement::Done, at(40)), Some(&receipt(1)));
    }

    #[test]
    fn a_second_copy_of_a_held_delivery_is_dropped_and_renews_its_deadline() {
        let mut lane = Lane::new(Some(ACK_WAIT));
        lane.begin(Position(1), receipt(1), at(0));

        assert_eq!(lane.begin(Position(1), receipt(2), at(35)), Begun::AlreadyHeld);

        assert_eq!(lane.permit(Position(1), Settlement::Extend, at(40)), Some(&receipt(2)));
        assert_eq!(lane.len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(u64),
        End(u64),
        Extend,
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
        let step = prop_oneof![(0_u64..8).prop_map(Step::Begin), (0_u64..8).prop_map(Step::End), Just(Step::Extend)];
        prop::collection::vec((0_u64..20, step), 0..200)
    }

    proptest! {
        /// The lane against the simplest model of it: a set of positions with the time of their last word to the server.
        #[test]
        fn the_lane_holds_what_was_begun_and_not_ended_and_never_speaks_after_a_deadline(steps in steps()) {
            let mut lane = Lane::new(Some(ACK_WAIT));
            let mut model = std::collections::BTreeMap::new();
            let mut now = 0;
            for (wait, step) in steps {
                now += wait;
                match step {
                    Step::Begin(position) => {
                        let begun = lane.begin(Position(position), receipt(position), at(now));
                        prop_assert_eq!(begun == Begun::AlreadyHeld, model.insert(position, now).is_some());
                    }
                    Step::End(position) => {
                        prop_assert_eq!(lane.end(Position(position)), model.remove(&position).is_some());
                    }
                    Step::Extend => {
                        for extended in lane.extend(at(now)) {
                            let Receipt::Reply(name) = extended else { unreachable!() };
                            let position: u64 = name.parse().unwrap();
                            let last = model.insert(position, now).expect("only held positions are extended");
                            prop_assert!((10..27).contains(&(now - last)), "extended {} s after the last word", now - last);
                        }
                    }
                }
                prop_assert_eq!(lane.len(), model.len());
            }
        }
    }
}
