//! The claim on an event id: who may act on it, and what is known of it. Pure: the stores keep records and apply these
//! functions to them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{key::Fingerprint, outcome::Effect};

/// What a store keeps of one event. Its form is stable: stores hold records of earlier releases.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// Where the event stands.
    pub state: State,
    /// Attempts started so far, the present one included.
    pub attempts: u32,
    /// Attempts that ended with nobody knowing whether the effect happened: their process died, or they were cut. Each
    /// may have caused a duplicate.
    #[serde(default)]
    pub uncertain: u32,
    /// When an attempt failed for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<Timestamp>,
    /// Fingerprint of what the event says.
    pub fingerprint: Fingerprint,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// An attempt is at work until this time of the store's clock, when its claim ends.
    Claimed {
        /// End of the claim.
        until: Timestamp,
    },
    /// An attempt failed; the next may start.
    Released,
    /// The effect happened.
    Done,
    /// The event was given up and its dead letter confirmed.
    Dead,
}

/// A wish to act on an event.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Fingerprint of what the event says.
    pub fingerprint: Fingerprint,
    /// How long the claim is to live.
    pub lease: Duration,
}

/// What a record and a wish come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Write this record, on condition that nobody else has written in between; then the claim is held.
    Claim(Record),
    /// The event is done or dead: skip it.
    Settled,
    /// Somebody is at work on it, for at most this long.
    Busy(Duration),
    /// Another event had the same id.
    Conflict,
}

/// What `wish` comes to, given the record of the event, if there is one, and the store's time.
pub fn judge(existing: Option<&Record>, wish: &Wish, now: Timestamp) -> Verdict {
    let Some(record) = existing else {
        return Verdict::Claim(claimed(&Record::unknown(wish), wish, now));
    };
    if record.fingerprint != wish.fingerprint {
        return Verdict::Conflict;
    }
    match record.state {
        State::Done | State::Dead => Verdict::Settled,
        State::Released => Verdict::Claim(claimed(record, wish, now)),
        State::Claimed { until } if until > now => Verdict::Busy(remaining(until, now)),
        // Its holder died or was cut off after it had started: what it did is not known.
        State::Claimed { until } => Verdict::Claim(claimed(&record.released(Effect::Possible, until), wish, now)),
    }
}

impl Record {
    fn unknown(wish: &Wish) -> Self {
        Self { state: State::Released, attempts: 0, uncertain: 0, first_failure: None, fingerprint: wish.fingerprint }
    }

    /// This record after its attempt ended in `state`.
    #[must_use]
    pub fn ended(&self, state: State) -> Self {
        Self { state, ..*self }
    }

    /// This record after its attempt failed at `failed_at`.
    #[must_use]
    pub fn released(&self, effect: Effect, failed_at: Timestamp) -> Self {
        Self {
            state: State::Released,
            uncertain: self.uncertain.saturating_add(u32::from(effect == Effect::Possible)),
            first_failure: self.first_failure.or(Some(failed_at)),
            ..*self
        }
    }

    /// This record with none of its attempts counted.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self { attempts: 0, ..*self }
    }

    /// This record with its attempt not counted.
    #[must_use]
    pub fn unspent(&self) -> Self {
        Self { attempts: self.attempts.saturating_sub(1), ..*self }
    }
}

fn claimed(before: &Record, wish: &Wish, now: Timestamp) -> Record {
    // A time past the end of the calendar is cut to its end; no store lives that long.
    let until = now.checked_add(wish.lease).unwrap_or(Timestamp::MAX);
    Record { state: State::Claimed { until }, attempts: before.attempts.saturating_add(1), ..*before }
}

fn remaining(until: Timestamp, now: Timestamp) -> Duration {
    until.duration_since(now).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn wish(fingerprint: &str) -> Wish {
        Wish { fingerprint: fingerprint.try_into().unwrap(), lease: LEASE }
    }

    fn claim(existing: Option<&Record>, now: i64) -> Record {
        match judge(existing, &wish("a"), at(now)) {
            Verdict::Claim(record) => record,
            other @ (Verdict::Settled | Verdict::Busy(_) | Verdict::Conflict) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_claim_keeps_others_out_until_it_ends_and_then_counts_as_uncertain() {
        let first = claim(None, 100);

        assert_eq!(judge(Some(&first), &wish("a"), at(110)), Verdict::Busy(Duration::from_secs(20)));
        let second = claim(Some(&first), 130);

        assert_eq!((second.attempts, second.uncertain), (2, 1));
    }

    #[test]
    fn a_released_claim_may_be_taken_at_once_and_keeps_its_attempts() {
        let released = claim(None, 100).released(Effect::None, at(100));

        let second = claim(Some(&released), 100);

        assert_eq!((second.attempts, second.uncertain), (2, 0));
    }

    #[test]
    fn a_done_or_dead_event_is_never_claimed_again() {
        for state in [State::Done, State::Dead] {
            let record = claim(None, 100).ended(state);
            assert_eq!(judge(Some(&record), &wish("a"), at(1_000_000)), Verdict::Settled);
        }
    }

    #[test]
    fn another_event_with_the_same_id_is_a_conflict_whatever_became_of_the_first() {
        let record = claim(None, 100);
        for record in [record, record.released(Effect::None, at(100)), record.ended(State::Done)] {
            assert_eq!(judge(Some(&record), &wish("b"), at(1_000)), Verdict::Conflict);
        }
    }

    proptest! {
        /// Whatever happens to its record, an event has at most one holder at any time, and its attempts only grow.
        #[test]
        fn there_is_at_most_one_holder_and_attempts_only_grow(steps in prop::collection::vec((0_i64..40, 0_u8..4), 1..60)) {
            let mut record: Option<Record> = None;
            let (mut now, mut held_until, mut attempts) = (0_i64, 0_i64, 0);
            for (wait, step) in steps {
                now += wait;
                match step {
                    0 | 1 => if let Verdict::Claim(next) = judge(record.as_ref(), &wish("a"), at(now)) {
                        prop_assert!(now >= held_until, "claimed while held");
                        prop_assert_eq!(next.attempts, attempts + 1);
                        attempts = next.attempts;
                        held_until = now + 30;
                        record = Some(next);
                    },
                    2 => if now < held_until { record = record.map(|record| record.released(Effect::None, at(100))); held_until = 0; },
                    _ => if now < held_until && wait == 39 { record = record.map(|record| record.ended(State::Done)); held_until = i64::MAX; },
                }
            }
        }
    }
}
