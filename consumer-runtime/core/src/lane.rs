//! The deliveries that this process holds: taken from the broker and not yet settled.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    delivery::{Delivery, Position, Receipt},
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
    held: HashMap<Position, Held, BuildHasherDefault<Spread>>,
}

/// Spreads positions over a table. Broker or adapter counts them, so nobody chooses some that meet in it.
#[derive(Debug, Default)]
struct Spread(u64);

#[derive(Debug)]
struct Held {
    receipt: Receipt,
    published_at: Option<Timestamp>,
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
        Self { ack_wait, held: HashMap::default() }
    }

    /// Registers a delivery.
    pub fn begin(&mut self, delivery: &Delivery) -> Begun {
        let now = delivery.received_at;
        let held = Held {
            receipt: delivery.receipt.clone(),
            published_at: delivery.published_at,
            deadline: AckDeadline::new(now, self.ack_wait),
            extend_at: self.extend_at(now),
        };
        match self.held.insert(delivery.position, held) {
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

    /// The deliveries whose extension is due at `now`. What was sent is to be told to [`Self::extended`]; either way the next
    /// is due a third of the ack wait later.
    ///
    /// One whose deadline has passed is left out: the broker has given it to somebody else or will do so.
    pub fn due(&mut self, now: Monotonic) -> Vec<(Position, Receipt)> {
        let next = self.extend_at(now);
        let due = self.held.iter_mut().filter(|(_, held)| {
            held.extend_at.is_some_and(|at| at <= now) && held.deadline.allows(Settlement::Extend, now)
        });
        due.map(|(position, held)| {
            held.extend_at = next;
            (*position, held.receipt.clone())
        })
        .collect()
    }

    /// An extension of this delivery was sent, at `now` or later: its deadline starts again.
    pub fn extended(&mut self, position: Position, now: Monotonic) {
        let ack_wait = self.ack_wait;
        if let Some(held) = self.held.get_mut(&position) {
            held.deadline = AckDeadline::new(now, ack_wait);
        }
    }

    /// When the oldest delivery that is held was published, as far as the broker says.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.held.values().filter_map(|held| held.published_at).min()
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

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        // By an odd number near the golden ratio: neighbours differ in the low bits and lie far apart in the high ones.
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millrace_events::Headers;
    use proptest::prelude::*;

    use super::*;

    const ACK_WAIT: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn receipt(name: u64) -> Receipt {
        Receipt::Reply(name.to_string().into())
    }

    fn delivery(position: u64, receipt_name: u64, second: u64) -> Delivery {
        Delivery {
            position: Position(position),
            delivered_count: 1,
            receipt: receipt(receipt_name),
            lane: 0,
            origin: "jetstream://ORDERS/orders.placed#1".parse().unwrap(),
            headers: Headers::new(),
            payload: Bytes::new(),
            key: None,
            published_at: Timestamp::from_second(i64::try_from(second).unwrap()).ok(),
            received_at: at(second),
        }
    }

    #[test]
    fn the_oldest_is_the_one_that_was_published_first_among_those_held() {
        let mut lane = Lane::new(None);
        assert_eq!(lane.oldest(), None);
        for (position, second) in [(1, 30), (2, 10), (3, 20)] {
            lane.begin(&delivery(position, 1, second));
        }
        lane.end(Position(2));

        assert_eq!(lane.oldest().unwrap().as_second(), 20);
    }

    #[test]
    fn a_slow_delivery_is_extended_every_third_of_the_ack_wait() {
        let mut lane = Lane::new(Some(ACK_WAIT));
        lane.begin(&delivery(1, 1, 0));

        let mut extended = Vec::new();
        for second in 0..60 {
            for (position, _) in lane.due(at(second)) {
                lane.extended(position, at(second));
                extended.push(second);
            }
        }

        assert_eq!(extended, [10, 20, 30, 40, 50]);
    }

    #[test]
    fn an_extension_that_could_not_be_sent_moves_no_deadline() {
        let mut lane = Lane::new(Some(ACK_WAIT));
        lane.begin(&delivery(1, 1, 0));

        let tried: Vec<u64> = (0..60).filter(|second| !lane.due(at(*second)).is_empty()).collect();

        assert_eq!(tried, [10, 20]);
        assert_eq!(lane.permit(Position(1), Settlement::RetryAfter(Duration::ZERO), at(40)), None);
    }

    #[test]
    fn a_delivery_whose_deadline_has_passed_is_neither_extended_nor_handed_back() {
        let mut lane = Lane::new(Some(ACK_WAIT));
        lane.begin(&delivery(1, 1, 0));

        assert_eq!(lane.due(at(40)), []);
        assert_eq!(lane.permit(Position(1), Settlement::RetryAfter(Duration::ZERO), at(40)), None);
        assert_eq!(lane.permit(Position(1), Settlement::Done, at(40)), Some(&receipt(1)));
    }

    #[test]
    fn a_second_copy_of_a_held_delivery_is_dropped_and_renews_its_deadline() {
        let mut lane = Lane::new(Some(ACK_WAIT));
        lane.begin(&delivery(1, 1, 0));

        assert_eq!(lane.begin(&delivery(1, 2, 35)), Begun::AlreadyHeld);

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
                        let begun = lane.begin(&delivery(position, position, now));
                        prop_assert_eq!(begun == Begun::AlreadyHeld, model.insert(position, now).is_some());
                    }
                    Step::End(position) => {
                        prop_assert_eq!(lane.end(Position(position)), model.remove(&position).is_some());
                    }
                    Step::Extend => {
                        for (Position(position), _) in lane.due(at(now)) {
                            lane.extended(Position(position), at(now));
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
