//! What a candidate does next. Pure.
//!
//! # Guarantees
//! At every moment at most one candidate may write, whatever their wall clocks say and however long each of them is paused, as
//! long as no monotonic clock runs half as fast again as another's. Who takes the lease of somebody else has seen it unchanged
//! for its whole duration; who holds it writes for `renew_deadline`, which is shorter, from before the renewal was sent.
//!
//! # Caveats
//! Somebody who deletes the `Lease` by hand takes this guarantee away from candidates that start just then.

use std::time::{Duration, Instant};

/// The times of an election.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// For how long the others leave an unchanged lease alone.
    pub lease: Duration,
    /// For how long its holder writes after a renewal that succeeded.
    pub renew_deadline: Duration,
    /// The pause between two tries.
    pub retry: Duration,
}

/// A lease as the API server has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Changes with every write.
    pub version: String,
    /// Who holds it; empty when it was released.
    pub holder: String,
    /// For how long the others are to leave it alone.
    pub lease: Duration,
}

/// What a candidate has seen of the lease.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    last: Option<(Record, Instant)>,
    exists: bool,
}

/// What a candidate knows of itself.
#[derive(Clone, Debug)]
pub struct Mine {
    /// Its name, which no other process ever has.
    pub identity: String,
    /// Until when it may write; `None` while it does not lead.
    pub writes_until: Option<Instant>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// There is no lease: make it.
    Create,
    /// Nobody holds it any more: take it, if it is still as it was seen.
    Take,
    /// It is ours: say so again.
    Renew,
    /// It is somebody else's.
    Wait,
    /// It was ours: write nothing any more, and end.
    Lost,
}

impl Observed {
    /// Notes what the API server has now. A record counts from when it was first seen by our own clock: times of other clocks
    /// mean nothing here. One that is deleted is remembered, because its holder may still write.
    pub fn note(&mut self, record: Option<Record>, now: Instant) {
        self.exists = record.is_some();
        if let Some(record) = record
            && self.last.as_ref().is_none_or(|(last, _)| *last != record)
        {
            self.last = Some((record, now));
        }
    }
}

/// What is to be done now.
pub fn decide(now: Instant, observed: &Observed, mine: &Mine) -> Action {
    if mine.writes_until.is_some_and(|until| now >= until) {
        return Action::Lost;
    }
    let free = if observed.exists { Action::Take } else { Action::Create };
    let Some((record, since)) = &observed.last else { return free };
    if record.holder == mine.identity {
        return if observed.exists { Action::Renew } else { Action::Create };
    }
    if mine.writes_until.is_some() {
        return Action::Lost;
    }
    let ended = record.holder.is_empty() || now.saturating_duration_since(*since) >= record.lease;
    if ended { free } else { Action::Wait }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMING: Timing = Timing {
        lease: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    fn record(version: &str, holder: &str) -> Record {
        Record { version: version.to_owned(), holder: holder.to_owned(), lease: TIMING.lease }
    }

    #[test]
    fn a_lease_is_taken_when_it_was_seen_unchanged_for_its_duration_and_at_once_when_it_was_released() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mine = Mine { identity: "b".to_owned(), writes_until: None };
        let mut observed = Observed::default();
        assert_eq!(decide(start, &observed, &mine), Action::Create);

        observed.note(Some(record("1", "a")), start);
        observed.note(Some(record("1", "a")), after(14));
        assert_eq!(decide(after(14), &observed, &mine), Action::Wait);
        assert_eq!(decide(after(15), &observed, &mine), Action::Take);

        observed.note(Some(record("2", "a")), after(15));
        assert_eq!(decide(after(29), &observed, &mine), Action::Wait);
        observed.note(None, after(29));
        assert_eq!(decide(after(29), &observed, &mine), Action::Wait, "who held it may still write");
        assert_eq!(decide(after(30), &observed, &mine), Action::Create);

        observed.note(Some(record("3", "")), after(30));
        assert_eq!(decide(after(30), &observed, &mine), Action::Take);
    }

    #[test]
    fn who_leads_ends_at_the_deadline_and_when_somebody_else_has_the_lease() {
        let start = Instant::now();
        let mine = Mine { identity: "a".to_owned(), writes_until: Some(start + TIMING.renew_deadline) };
        let mut observed = Observed::default();
        observed.note(Some(record("1", "a")), start);

        assert_eq!(decide(start, &observed, &mine), Action::Renew);
        assert_eq!(decide(start + TIMING.renew_deadline, &observed, &mine), Action::Lost);
        for other in ["b", ""] {
            observed.note(Some(record("2", other)), start);
            assert_eq!(decide(start, &observed, &mine), Action::Lost, "{other:?}");
        }
    }

    /// One step of a candidate: it looks, decides and writes, with pauses in between, and its answer may be lost.
    #[derive(Clone, Copy, Debug)]
    struct Step {
        who: usize,
        /// Milliseconds of pause before it looks, between look and write, and between the write and its answer.
        pauses: [u64; 3],
        answer_is_lost: bool,
        request_is_lost: bool,
        releases: bool,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Mostly as in life, and now and then longer than every bound.
        let pause = prop_oneof![8 => 0_u64..2500, 1 => 0_u64..40_000];
        let step = (0_usize..3, [pause.clone(), pause.clone(), pause], 0_u8..10, 0_u8..10, 0_u8..30);
        let step = step.prop_map(|(who, pauses, answer, request, release)| Step {
            who,
            pauses,
            answer_is_lost: answer == 0,
            request_is_lost: request == 0,
            releases: release == 0,
        });
        prop::collection::vec(step, 1..200)
    }

    /// The lease on a server that takes a write only on the version that it was made of.
    #[derive(Debug, Default)]
    struct Server {
        record: Option<Record>,
        writes: u64,
    }

    impl Server {
        fn write(&mut self, seen: Option<&Record>, holder: &str) -> bool {
            if self.record.as_ref().map(|record| &record.version) != seen.map(|record| &record.version) {
                return false;
            }
            self.writes += 1;
            self.record = Some(record(&self.writes.to_string(), holder));
            true
        }
    }

    /// What a candidate that has looked is about to write.
    #[derive(Debug)]
    struct Pending {
        seen: Option<Record>,
        decided: Action,
        sent: Instant,
    }

    #[derive(Debug)]
    struct Candidate {
        mine: Mine,
        observed: Observed,
        pending: Option<Pending>,
        wakes: u64,
    }

    impl Candidate {
        fn fresh(life: usize) -> Self {
            let mine = Mine { identity: format!("life-{life}"), writes_until: None };
            Self { mine, observed: Observed::default(), pending: None, wakes: 0 }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Candidates interleave at every place where one can be paused: before a look, between it and the write, before the
        /// answer. Whoever loses the lease ends, and starts anew as somebody else. Their clocks run at their own rates, in percent.
        #[test]
        fn at_every_moment_at_most_one_writes_and_somebody_does_in_time(
            steps in steps(),
            rates in prop::array::uniform3(85_u64..=120),
        ) {
            let start = Instant::now();
            let by_clock_of = |who: usize, clock: u64| start + Duration::from_millis(clock * rates[who] / 100);
            let mut server = Server::default();
            let mut lives = 3;
            let mut candidates: Vec<_> = (0..3).map(Candidate::fresh).collect();
            let mut clock = 0;
            for step in steps {
                let candidate = &mut candidates[step.who];
                clock = (clock + 100).max(candidate.wakes);
                let now = by_clock_of(step.who, clock);
                match candidate.pending.take() {
                    None => {
                        candidate.observed.note(server.record.clone(), now);
                        let decided = decide(now, &candidate.observed, &candidate.mine);
                        if decided == Action::Lost {
                            *candidate = Candidate::fresh(lives);
                            lives += 1;
                        } else if decided != Action::Wait {
                            candidate.pending = Some(Pending { seen: server.record.clone(), decided, sent: now });
                        }
                        candidate.wakes = clock + step.pauses[1];
                    }
                    Some(pending) => {
                        let leads = candidate.mine.writes_until.is_some_and(|until| now < until);
                        if step.releases && leads {
                            // Released by who leads, and ended.
                            if server.record.as_ref().is_some_and(|record| record.holder == candidate.mine.identity) {
                                let seen = server.record.clone();
                                server.write(seen.as_ref(), "");
                            }
                            *candidate = Candidate::fresh(lives);
                            lives += 1;
                        } else if !step.request_is_lost {
                            let written = server.write(pending.seen.as_ref(), &candidate.mine.identity);
                            if written && !step.answer_is_lost {
                                prop_assert!(matches!(pending.decided, Action::Create | Action::Take | Action::Renew));
                                candidate.mine.writes_until = Some(pending.sent + TIMING.renew_deadline);
                            }
                        }
                        candidate.wakes = clock + step.pauses[2].max(step.pauses[0]);
                    }
                }
                let writers = candidates.iter().enumerate().filter(|(who, candidate)| {
                    candidate.mine.writes_until.is_some_and(|until| by_clock_of(*who, clock) < until)
                });
                prop_assert!(writers.count() <= 1, "{candidates:?}");
            }

            // The others are paused for good: the last one leads after the lease and two tries at most.
            let mut last = Candidate::fresh(lives);
            let begun = clock;
            while last.mine.writes_until.is_none() {
                let now = start + Duration::from_millis(clock);
                last.observed.note(server.record.clone(), now);
                let decided = decide(now, &last.observed, &last.mine);
                let seen = server.record.clone();
                if decided != Action::Wait && server.write(seen.as_ref(), &last.mine.identity) {
                    last.mine.writes_until = Some(now + TIMING.renew_deadline);
                }
                prop_assert!(clock - begun <= 17_000, "nobody leads");
                clock += 2000;
            }
        }
    }
}
