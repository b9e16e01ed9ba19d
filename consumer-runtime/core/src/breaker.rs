//! The circuit breaker: tells a handler that fails for everybody from an event that fails alone. Pure.

use std::collections::BTreeSet;

use crate::outcome::{FailureClass, Outcome};

/// A circuit breaker.
///
/// Closed, it counts the events whose attempts failed since the last success; when they are too many it opens. Open, it
/// admits nothing until it is told to probe; then it admits one attempt at a time, until one succeeds, which closes it,
/// or fails, which opens it again. Only failures that another attempt may heal count: a refusal for good says something
/// of the event and nothing of the handler.
#[derive(Debug)]
pub struct Breaker {
    failures_max: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The events that failed since the last success.
    Closed(BTreeSet<String>),
    Open,
    /// Whether a probe is at work.
    Probing(bool),
}

/// Leave to start an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// As always.
    Normal,
    /// As the one whose outcome decides.
    Probe,
}

/// What an outcome did to the breaker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is open now.
    Opened,
    /// It is closed now.
    Closed,
}

impl Breaker {
    /// A closed breaker that opens when `failures_max` different events have failed in a row.
    pub fn new(failures_max: u32) -> Self {
        let failures_max = usize::try_from(failures_max).unwrap_or(usize::MAX);
        Self { failures_max, state: State::Closed(BTreeSet::new()) }
    }

    /// Whether an attempt may start.
    pub fn admit(&mut self) -> Option<Admission> {
        match &mut self.state {
            State::Closed(_) => Some(Admission::Normal),
            State::Probing(at_work @ false) => {
                *at_work = true;
                Some(Admission::Probe)
            }
            State::Open | State::Probing(true) => None,
        }
    }

    /// The attempt that `admission` was for ended with `outcome`, or never started.
    pub fn ended(&mut self, admission: Admission, event: &str, outcome: Option<&Outcome>) -> Change {
        let verdict = outcome.and_then(verdict);
        match (&mut self.state, admission, verdict) {
            (State::Closed(failed), _, Some(true)) => failed.clear(),
            (State::Closed(failed), _, Some(false)) => {
                failed.insert(event.to_owned());
                if failed.len() >= self.failures_max {
                    self.state = State::Open;
                    return Change::Opened;
                }
            }
            (State::Probing(_), Admission::Probe, Some(true)) => {
                self.state = State::Closed(BTreeSet::new());
                return Change::Closed;
            }
            (State::Probing(_), Admission::Probe, Some(false)) => {
                self.state = State::Open;
                return Change::Opened;
            }
            (State::Probing(at_work), Admission::Probe, None) => *at_work = false,
            // An attempt from before says nothing new.
            (State::Closed(_), _, None) | (State::Open, ..) | (State::Probing(_), Admission::Normal, _) => {}
        }
        Change::None
    }

    /// An open breaker admits a probe from now on.
    pub fn probe(&mut self) {
        if matches!(self.state, State::Open) {
            self.state = State::Probing(false);
        }
    }

    /// Whether it admits everything.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Whether it waits for a probe that has not started.
    pub fn wants_probe(&self) -> bool {
        matches!(self.state, State::Probing(false))
    }
}

/// Whether an outcome speaks for the handler or against it; nothing when it does neither.
fn verdict(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Done => Some(true),
        Outcome::NotNeeded | Outcome::Fenced => None,
        Outcome::Failed(failure) => match failure.class {
            FailureClass::Retryable => Some(false),
            FailureClass::Permanent(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use millrace_events::Reason;
    use proptest::prelude::*;

    use super::*;

    fn failed() -> Outcome {
        Outcome::retryable("connection refused")
    }

    fn attempt(breaker: &mut Breaker, event: &str, outcome: &Outcome) -> Option<Change> {
        let admission = breaker.admit()?;
        Some(breaker.ended(admission, event, Some(outcome)))
    }

    #[test]
    fn an_event_that_needs_no_effect_says_nothing_of_the_handler() {
        let mut breaker = Breaker::new(2);
        attempt(&mut breaker, "a", &failed());
        attempt(&mut breaker, "idle", &Outcome::NotNeeded);
        assert_eq!(attempt(&mut breaker, "b", &failed()), Some(Change::Opened));

        breaker.probe();
        assert_eq!(attempt(&mut breaker, "idle", &Outcome::NotNeeded), Some(Change::None));
        assert!(breaker.wants_probe(), "the next one is the probe");
    }

    fn open() -> Breaker {
        let mut breaker = Breaker::new(2);
        attempt(&mut breaker, "a", &failed());
        assert_eq!(attempt(&mut breaker, "b", &failed()), Some(Change::Opened));
        breaker
    }

    #[test]
    fn an_event_that_fails_alone_never_opens_it() {
        let mut breaker = Breaker::new(2);

        for _ in 0..100 {
            assert_eq!(attempt(&mut breaker, "poison", &failed()), Some(Change::None));
        }
        attempt(&mut breaker, "good", &Outcome::Done);
        assert_eq!(attempt(&mut breaker, "other", &failed()), Some(Change::None), "a success starts the count again");
    }

    #[test]
    fn an_open_breaker_admits_one_probe_when_told_whose_outcome_decides() {
        let mut breaker = open();
        assert_eq!(breaker.admit(), None);

        breaker.probe();
        let probe = breaker.admit().unwrap();
        assert_eq!((probe, breaker.admit()), (Admission::Probe, None));
        assert_eq!(breaker.ended(Admission::Normal, "late", Some(&Outcome::Done)), Change::None);
        assert_eq!(breaker.ended(probe, "c", Some(&failed())), Change::Opened);

        breaker.probe();
        assert_eq!(attempt(&mut breaker, "c", &Outcome::Done), Some(Change::Closed));
        assert_eq!(breaker.admit(), Some(Admission::Normal));
    }

    #[test]
    fn a_probe_that_says_nothing_makes_room_for_the_next() {
        let mut breaker = open();
        breaker.probe();

        let unstarted = breaker.admit().unwrap();
        assert_eq!(breaker.ended(unstarted, "duplicate", None), Change::None);
        let refused = Outcome::permanent(Reason::HandlerRejected, "no such mailbox");
        assert_eq!(attempt(&mut breaker, "refused", &refused), Some(Change::None));

        assert_eq!(attempt(&mut breaker, "c", &Outcome::Done), Some(Change::Closed));
    }

    proptest! {
        /// Whatever happens, at most one probe is at work, and a handler that has healed is found out by the next one.
        #[test]
        fn there_is_at_most_one_probe_and_a_success_of_it_always_closes(steps in prop::collection::vec(0_u8..6, 0..200)) {
            let mut breaker = Breaker::new(3);
            let mut at_work = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    0..=2 => at_work.extend(breaker.admit()),
                    3 => breaker.probe(),
                    _ => if let Some(admission) = at_work.pop() {
                        breaker.ended(admission, &number.to_string(), (step == 4).then(failed).as_ref());
                    },
                }
                prop_assert!(at_work.iter().filter(|admission| **admission == Admission::Probe).count() <= 1);
            }
            for admission in at_work {
                breaker.ended(admission, "last", None);
            }
            breaker.probe();
            attempt(&mut breaker, "good", &Outcome::Done);
            prop_assert!(breaker.is_closed());
        }
    }
}
