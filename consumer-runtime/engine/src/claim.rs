//! Step 5: the claim on an event, and what stands in its way.

use std::time::Duration;

use millrace_core::{
    claim::Wish,
    delivery::Delivery,
    naming::Name,
    ports::{Claim, Hold, StoreError},
    settle::Settlement,
};
use millrace_events::{Event, Reason, replays};
use tracing::{debug, warn};

use crate::{give_up::GivenUp, shared::Shared};

/// Shortest time until a holder in this process is looked at again.
const HOLDER_LOOK: Duration = Duration::from_millis(5);

/// What a claim comes to.
pub(crate) enum Admission {
    /// The attempt may start, with this claim; without one where none is asked for.
    Start(Option<Hold>),
    /// Nothing is to be done but this.
    Put(Settlement),
    /// The event is to be given up.
    Refuse(GivenUp),
}

pub(crate) async fn claim(shared: &Shared, delivery: &Delivery, event: &Event) -> Admission {
    let Some(store) = &shared.store else {
        return Admission::Start(None);
    };
    let Some(name) = name(shared, delivery, event) else {
        let error = "the event has no value where idempotency.key looks for one";
        return Admission::Refuse(GivenUp::new(Reason::InvalidId, error, 1));
    };
    // Nothing but this answer is relied on: what is not known here may be done all the same.
    if shared.was_done_here(&name) {
        return duplicate(shared, delivery, event);
    }
    let wish = Wish { fingerprint: name.fingerprint, lease: shared.policy.lease };
    let answer = shared.timed(&shared.metrics.claim_seconds, store.claim(&name.key, &wish)).await;
    match answer {
        Ok(Claim::Claimed(claimed)) => {
            // A handler that records its effect itself has had none, or the claim would have met the record.
            if claimed.record.uncertain > 0 && !shared.handler.records() {
                shared.metrics.possible_duplicates.inc();
                warn!(event_id = %event.id, attempt = claimed.record.attempts, uncertain = claimed.record.uncertain,
                    "an earlier attempt ended without word: its effect may happen twice");
            }
            Admission::Start(Some(Hold { key: name.key, claimed }))
        }
        Ok(Claim::Settled) => duplicate(shared, delivery, event),
        Ok(Claim::Busy(remaining)) => {
            shared.metrics.busy.inc();
            Admission::Put(Settlement::RetryAfter(remaining.min(until_holder_is_done(shared, delivery))))
        }
        Ok(Claim::Conflict) => {
            let error = "another event with the same id and other content was seen before";
            Admission::Refuse(GivenUp::new(Reason::IdempotencyConflict, error, 1))
        }
        Err(error @ (StoreError::Unavailable(_) | StoreError::Fenced)) => {
            shared.store_fails(&error);
            Admission::Put(Settlement::RetryAfter(shared.policy.retry.backoff.delay(1, fastrand::u64(..))))
        }
    }
}

/// When to ask again for an event that is at work: its holder will most likely be done long before its claim ends.
fn until_holder_is_done(shared: &Shared, delivery: &Delivery) -> Duration {
    let usual = shared.policy.retry.backoff.delay(1, fastrand::u64(..));
    let holder_is_here = shared.store.as_ref().is_some_and(|store| !store.is_durable());
    // A broker that is asked to deliver again counts that as an attempt, and a store of others is not to be asked in vain. Here
    // it costs next to nothing, and on Kafka nothing behind the copy is committed before it.
    if holder_is_here && shared.retries_here(delivery) {
        return usual.min(HOLDER_LOOK.max(shared.window().mean_attempt()));
    }
    usual
}

fn duplicate(shared: &Shared, delivery: &Delivery, event: &Event) -> Admission {
    shared.metrics.duplicates_skipped.inc();
    debug!(event_id = %event.id, delivered_count = delivery.delivered_count, "duplicate skipped");
    Admission::Put(Settlement::Done)
}

/// What an event is known by; nothing where it has no value in the place that the user has chosen.
fn name(shared: &Shared, delivery: &Delivery, event: &Event) -> Option<Name> {
    let replays = replays(&delivery.headers, &shared.consumer);
    let value = match &shared.policy.idempotency_key {
        None => None,
        Some(pick) => Some(pick.from_event(delivery, event)?),
    };
    Some(shared.naming.name(event, value.as_deref(), replays))
}

/// The number of the attempt that is about to start. Where the store outlives the process its count is right; else the
/// broker's is the only one that has seen earlier processes.
pub(crate) fn attempt_number(shared: &Shared, delivery: &Delivery, hold: Option<&Hold>) -> u32 {
    let durable = shared.store.as_ref().is_some_and(|store| store.is_durable());
    let broker_counts = shared.settler.redelivery().ack_wait().is_some();
    match hold {
        Some(hold) if durable || !broker_counts => hold.claimed.record.attempts,
        _ => delivery.delivered_count,
    }
}
