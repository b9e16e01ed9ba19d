//! What to do after an attempt. Pure.

use std::time::Duration;

use millrace_events::Reason;

use crate::{
    outcome::{FailureClass, Outcome},
    retry::RetryPolicy,
};

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Record the event as done and settle it.
    Complete,
    /// Give the claim back and ask the broker for the event again after this time.
    RetryAfter(Duration),
    /// Give the event up.
    GiveUp(Reason),
    /// Somebody else has the event: leave it to them.
    Leave,
}

/// What to do after attempt number `attempt` (the first is 1) ended with `outcome`.
///
/// `left` is the time in which attempts may still start, `None` where nothing limits it; `entropy` is any number drawn at random, for the jitter of the delay.
pub fn decide(outcome: &Outcome, attempt: u32, left: Option<Duration>, policy: &RetryPolicy, entropy: u64) -> Next {
    let failure = match outcome {
        Outcome::Done | Outcome::NotNeeded => return Next::Complete,
        Outcome::Fenced => return Next::Leave,
        Outcome::Failed(failure) => failure,
    };
    match failure.class {
        FailureClass::Permanent(reason) => Next::GiveUp(reason),
        FailureClass::Retryable if policy.allows_after(attempt) => {
            let delay = policy.backoff.delay(attempt, entropy);
            let asked_for = failure.retry_after.unwrap_or_default().min(policy.backoff.max);
            let delay = delay.max(asked_for);
            if left.is_some_and(|left| left <= delay) { Next::GiveUp(Reason::Expired) } else { Next::RetryAfter(delay) }
        }
        FailureClass::Retryable => Next::GiveUp(Reason::RetriesExhausted),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{backoff::Backoff, outcome::Failure};

    fn policy(max_attempts: u32) -> RetryPolicy {
        let backoff = Backoff { initial: Duration::from_millis(500), max: Duration::from_secs(60), jitter_percent: 20 };
        RetryPolicy { max_attempts, max_age: None, backoff }
    }

    #[test]
    fn a_permanent_failure_is_given_up_at_its_first_attempt_and_keeps_its_reason() {
        let outcome = Outcome::permanent(Reason::InvalidData, "total_amount is not a number");

        assert_eq!(decide(&outcome, 1, None, &policy(5), 0), Next::GiveUp(Reason::InvalidData));
    }

    #[test]
    fn the_wait_that_the_other_side_asks_for_is_honoured_up_to_the_largest_delay() {
        let wait = |seconds| {
            let Outcome::Failed(failure) = Outcome::retryable("busy") else { unreachable!() };
            let outcome = Outcome::Failed(Failure { retry_after: Some(Duration::from_secs(seconds)), ..failure });
            decide(&outcome, 1, None, &policy(5), 0)
        };

        assert_eq!(wait(30), Next::RetryAfter(Duration::from_secs(30)));
        assert_eq!(wait(1_000_000_000), Next::RetryAfter(Duration::from_secs(60)));
    }

    #[test]
    fn an_event_is_given_up_when_it_would_be_too_old_by_its_next_attempt() {
        let next = |left| decide(&Outcome::retryable("busy"), 3, Some(Duration::from_millis(left)), &policy(5), 0);

        assert!(matches!(next(2_500), Next::RetryAfter(_)), "the delay is at most 2.4 s");
        assert_eq!(next(1_500), Next::GiveUp(Reason::Expired));
    }

    proptest! {
        #[test]
        fn an_event_that_always_fails_ends_as_a_dead_letter_after_exactly_the_allowed_attempts(max_attempts in 1_u32..100, entropy: u64) {
            let outcome = Outcome::retryable("connection refused");

            for attempt in 1..max_attempts {
                let next = decide(&outcome, attempt, None, &policy(max_attempts), entropy);
                prop_assert!(matches!(next, Next::RetryAfter(_)), "attempt {attempt}: {next:?}");
            }
            prop_assert_eq!(decide(&outcome, max_attempts, None, &policy(max_attempts), entropy), Next::GiveUp(Reason::RetriesExhausted));
        }
    }
}
