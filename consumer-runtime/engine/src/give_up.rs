//! Giving an event up: its dead letter is confirmed before anything says that it is dead.

use std::time::Duration;

use jiff::Timestamp;
use millrace_core::{claim::State, delivery::Delivery, outcome::Effect, settle::Settlement};
use millrace_events::{DeadLetter, Reason};
use tracing::{error, warn};

use crate::{
    line::Hold,
    record::{Recorded, record},
    shared::Shared,
};

/// Tries to publish a dead letter before its original is put off.
const PUBLISH_TRIES: u32 = 3;

/// Why an event is given up.
#[derive(Debug)]
pub(crate) struct GivenUp {
    reason: Reason,
    error: String,
    attempts: u32,
}

impl GivenUp {
    pub(crate) fn new(reason: Reason, error: impl Into<String>, attempts: u32) -> Self {
        Self { reason, error: error.into(), attempts }
    }
}

/// Publishes the dead letter of a delivery, records the event as dead, and says how the original is to be settled.
///
/// When the dead letter cannot be published the original is put off, so that nothing is lost.
pub(crate) async fn give_up(
    shared: &Shared,
    delivery: &Delivery,
    hold: Option<Hold>,
    given_up: GivenUp,
) -> Option<Settlement> {
    let reason = given_up.reason;
    let letter = dead_letter(shared, delivery, hold.as_ref(), given_up);
    if !publish(shared, &letter).await {
        if let Some(hold) = hold {
            record(shared, &hold, &hold.claimed.record.released(Effect::None, letter.last_failure)).await;
        }
        return Some(Settlement::RetryAfter(shared.policy.retry.backoff.max));
    }
    shared.metrics.dead_letter(reason).inc();
    warn!(reason = %letter.reason, error = letter.error, origin = %letter.origin, attempts = letter.attempts, "dead letter");
    match hold {
        None => Some(Settlement::Done),
        Some(hold) => match record(shared, &hold, &hold.claimed.ended(State::Dead)).await {
            Recorded::Yes => Some(Settlement::Done),
            Recorded::Fenced | Recorded::Unavailable => None,
        },
    }
}

fn dead_letter(shared: &Shared, delivery: &Delivery, hold: Option<&Hold>, given_up: GivenUp) -> DeadLetter {
    let now: Timestamp = shared.clock.wall();
    let first_failure = hold.and_then(|hold| hold.claimed.record.first_failure).unwrap_or(now);
    let consumer = shared.policy.consumer.to_string();
    DeadLetter {
        id: DeadLetter::id_for(&consumer, &delivery.origin, &delivery.payload),
        reason: given_up.reason,
        error: given_up.error,
        attempts: given_up.attempts,
        first_failure,
        last_failure: now,
        origin: delivery.origin.clone(),
        consumer,
        replays: 0,
        headers: delivery.headers.clone(),
        payload: delivery.payload.clone(),
    }
}

async fn publish(shared: &Shared, letter: &DeadLetter) -> bool {
    for failures in 1..=PUBLISH_TRIES {
        match shared.dead_letters.publish(letter).await {
            Ok(()) => return true,
            Err(error) => {
                error!(%error, origin = %letter.origin, "failed to publish a dead letter");
                let pause: Duration = shared.policy.reconnect.delay(failures, fastrand::u64(..));
                tokio::time::sleep(pause).await;
            }
        }
    }
    false
}
