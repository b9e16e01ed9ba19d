//! Giving an event up: its dead letter is confirmed before anything says that it is dead.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use millrace_core::{
    claim::State,
    delivery::Delivery,
    health::{Part, Trouble, TroubleReason},
    outcome::Effect,
    ports::{DeadLetters, Hold},
    settle::Settlement,
    trace::{EventTrace, Operation},
};
use millrace_events::{DeadLetter, Event, Reason, replays};
use tracing::{error, warn};

use crate::{
    record::{Recorded, record},
    shared::Shared,
    traced::{Ended, Traced},
};

/// Tries to publish a dead letter before its original is put off.
const PUBLISH_TRIES: u32 = 3;

/// What becomes of an event that is given up.
#[derive(Clone)]
pub enum OnExhausted {
    /// Its dead letter is published here.
    DeadLetter(Arc<dyn DeadLetters>),
    /// It is left at the broker, and nothing more is taken for as long as this process lives.
    Pause,
    /// It is settled.
    Drop,
}

/// Why an event is given up.
#[derive(Debug)]
pub(crate) struct GivenUp {
    reason: Reason,
    error: String,
    attempts: u32,
    traced: Option<Box<Traced>>,
}

impl GivenUp {
    pub(crate) fn new(reason: Reason, error: impl Into<String>, attempts: u32) -> Self {
        Self { reason, error: error.into(), attempts, traced: None }
    }

    /// The same, as part of the trace of the event.
    pub(crate) fn traced(self, trace: Option<EventTrace>, event: &Event) -> Self {
        Self { traced: Traced::new(trace, event).map(Box::new), ..self }
    }
}

/// Does with the event what is asked for, records it as dead, and says how the original is to be settled.
pub(crate) async fn give_up(
    shared: &Shared,
    delivery: &Delivery,
    hold: Option<Hold>,
    given_up: GivenUp,
) -> Option<Settlement> {
    match &shared.on_exhausted {
        OnExhausted::DeadLetter(dead_letters) => {
            let reason = given_up.reason;
            let (attempt, traced) = (given_up.attempts, given_up.traced.clone());
            let started = shared.clock.wall();
            let letter = dead_letter(shared, delivery, hold.as_ref(), given_up);
            let published = publish(shared, dead_letters.as_ref(), &letter).await;
            if let Some(traced) = traced {
                let error = (!published).then(|| "not confirmed by the broker".to_owned());
                shared.tell(&traced, Operation::Send, delivery, Ended { attempt, started, error });
            }
            if !published {
                // The original is put off, so that nothing is lost.
                if let Some(hold) = hold {
                    record(shared, &hold, &hold.claimed.record.released(Effect::None, letter.last_failure)).await;
                }
                return Some(Settlement::RetryAfter(shared.policy.retry.backoff.max));
            }
            shared.metrics.dead_letter(reason).inc();
            warn!(reason = %letter.reason, error = letter.error, origin = %letter.origin, attempts = letter.attempts, "dead letter");
        }
        OnExhausted::Drop => {
            shared.metrics.dropped(given_up.reason).inc();
            let GivenUp { reason, error, attempts, .. } = given_up;
            warn!(%reason, error, origin = %delivery.origin, attempts, "dropped");
        }
        OnExhausted::Pause => return Some(pause(shared, delivery, hold, &given_up).await),
    }
    match hold {
        None => Some(Settlement::Done),
        Some(hold) => match record(shared, &hold, &hold.claimed.ended(State::Dead)).await {
            Recorded::Yes => Some(Settlement::Done),
            Recorded::Fenced | Recorded::Unavailable => None,
        },
    }
}

/// Nothing more is taken. The event is put off, and begins anew with whoever gets it after a restart.
async fn pause(shared: &Shared, delivery: &Delivery, hold: Option<Hold>, given_up: &GivenUp) -> Settlement {
    let message = format!(
        "{} was given up ({}: {}), and delivery.onExhausted is Pause: nothing more is taken; mend the cause, then restart the \
         pods with kubectl rollout restart deployment/{}",
        delivery.origin, given_up.reason, given_up.error, shared.policy.consumer.name
    );
    error!(message, attempts = given_up.attempts, "paused");
    shared.health.fails(Part::Intake, Trouble::new(TroubleReason::Paused, message));
    shared.pause_gate.set(false);
    if let Some(hold) = hold {
        let released = hold.claimed.record.released(Effect::None, shared.clock.wall()).restarted();
        record(shared, &hold, &released).await;
    }
    Settlement::RetryAfter(shared.policy.retry.backoff.max)
}

fn dead_letter(shared: &Shared, delivery: &Delivery, hold: Option<&Hold>, given_up: GivenUp) -> DeadLetter {
    let now: Timestamp = shared.clock.wall();
    let first_failure = hold.and_then(|hold| hold.claimed.record.first_failure).unwrap_or(now);
    let consumer = shared.policy.consumer.to_string();
    let replays = replays(&delivery.headers, &consumer);
    DeadLetter {
        id: DeadLetter::id_for(&consumer, &delivery.origin, &delivery.payload, replays),
        reason: given_up.reason,
        error: given_up.error,
        attempts: given_up.attempts,
        first_failure,
        last_failure: now,
        origin: delivery.origin.clone(),
        consumer,
        replays,
        key: delivery.key.clone(),
        headers: delivery.headers.clone(),
        payload: delivery.payload.clone(),
    }
}

async fn publish(shared: &Shared, dead_letters: &dyn DeadLetters, letter: &DeadLetter) -> bool {
    for failures in 1..=PUBLISH_TRIES {
        match dead_letters.publish(letter).await {
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
