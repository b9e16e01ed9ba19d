//! The line that every message takes, from top to bottom.

use std::{collections::VecDeque, mem, pin::pin, task::Poll, time::Duration};

use millrace_core::{
    claim::State,
    decide::{Next, decide},
    delivery::Delivery,
    naming::Name,
    outcome::{Effect, Outcome},
    ports::Hold,
    routing::Route,
    settle::Settlement,
};
use millrace_events::{Event, Reason};
use tracing::{debug, info, warn};

use crate::{
    attempt::{Worker, attempt},
    claim::{Admission, attempt_number, claim},
    finished::Batch,
    give_up::{GivenUp, give_up},
    record::{Recorded, record},
    settle::{Carried, hand_back, settle},
    shared::Shared,
};

/// Carries deliveries through one after the other, and ends them together. As soon as one waits for something, the others
/// are left to whoever is free.
pub(crate) async fn carry(shared: &Shared, worker: &mut Worker, mut taken: VecDeque<Delivery>) {
    let (count, started) = (taken.len(), shared.clock.monotonic());
    worker.now = started;
    let (mut carried, mut none_waited) = (Vec::with_capacity(count), true);
    while let Some(mut delivery) = taken.pop_front() {
        let settlement = {
            let mut line = pin!(settlement_of(shared, worker, &mut delivery));
            match futures::poll!(line.as_mut()) {
                Poll::Ready(settlement) => settlement,
                Poll::Pending => {
                    none_waited = false;
                    let unstarted = shared.work.one_waits(mem::take(&mut taken));
                    let others = end(shared, mem::take(&mut carried), unstarted);
                    futures::join!(line, others).0
                }
            }
        };
        carried.push(Carried { delivery, settlement });
    }
    if none_waited {
        shared.work.none_waited(count, shared.clock.monotonic().since(started));
    }
    finish(shared, worker, carried).await;
}

/// Ends those that were carried through, and hands back those that are not to start any more.
async fn end(shared: &Shared, carried: Vec<Carried>, unstarted: VecDeque<Delivery>) {
    settle(shared, carried).await;
    for delivery in unstarted {
        hand_back(shared, &delivery).await;
    }
}

/// Ends those that were carried through, with those that others carry through at the same time.
async fn finish(shared: &Shared, worker: &mut Worker, carried: Vec<Carried>) {
    let is_first = shared.finished.add(carried, &mut worker.attempts);
    // Others end meanwhile, and what is sent and received in between keeps the broker busy.
    tokio::task::yield_now().await;
    if is_first {
        let Batch { carried, attempts } = shared.finished.take();
        shared.observe(attempts);
        settle(shared, carried).await;
    }
}

/// Carries one delivery through: what the broker is to be told about it; nothing where the claim went to somebody else.
///
/// The steps are those of `ARCHITECTURE.md`; 1 (intake) and 2 (register) are in [`crate::intake`], 10 to 12 in
/// [`crate::settle`].
async fn settlement_of(shared: &Shared, worker: &mut Worker, delivery: &mut Delivery) -> Option<Settlement> {
    if !shared.settler.owns(&delivery.receipt) {
        shared.metrics.taken_back.inc();
        return Some(Settlement::RetryAfter(Duration::ZERO));
    }
    // 3 decode
    let event = match decode(shared, delivery) {
        Ok(event) => event,
        Err(refusal) => return give_up(shared, delivery, None, refusal).await,
    };
    // 4 route
    if shared.policy.routing.route(&event.event_type) == Route::Ignore {
        shared.metrics.ignored.inc();
        return Some(Settlement::Done);
    }
    let Some(turn) = shared.pace.turn_unless(&shared.handing_back).await else {
        shared.metrics.handed_back.inc();
        return Some(Settlement::RetryAfter(Duration::ZERO));
    };
    if !shared.handler_gate.is_open() || !shared.pause_gate.is_open() {
        // An attempt could only fail, or nothing is to start until somebody has looked. It is not spent: the event waits,
        // and has no claim yet.
        return Some(Settlement::RetryAfter(shared.policy.reconnect.max));
    }
    let Some(leave) = shared.circuit.admit() else {
        return Some(Settlement::RetryAfter(shared.policy.reconnect.max));
    };
    // 5 claim
    if shared.policy.rate.is_some() {
        // Its turn may have had to be waited for.
        worker.now = shared.clock.monotonic();
    }
    let asked_at = worker.now;
    let hold = match claim(shared, delivery, &event).await {
        Admission::Start(hold) => hold,
        Admission::Put(settlement) => return Some(settlement),
        Admission::Refuse(refusal) => return give_up(shared, delivery, None, refusal).await,
    };
    let number = attempt_number(shared, delivery, hold.as_ref());
    let trace = shared.trace(&event, delivery);
    let left = shared.policy.retry.left(delivery.published_at, || shared.clock.wall());
    if let Some(given_up) = used_up(shared, number, left) {
        return give_up(shared, delivery, hold, given_up.traced(trace, &event)).await;
    }
    let slack = shared.policy.lease.saturating_sub(shared.policy.attempt_timeout);
    worker.now = shared.clock.monotonic();
    if hold.is_some() && worker.now.since(asked_at) > slack {
        // This process was stopped after it had claimed: the claim may end before the attempt does.
        warn!(event_id = %event.id, "the claim is too old to start with");
        return Some(Settlement::RetryAfter(shared.policy.lease));
    }
    // 6 handle
    turn.start();
    let outcome = attempt(shared, delivery, &event, number, hold.as_ref(), trace, worker).await;
    // 7 decide
    let spent = leave.end(event.id.as_str(), &outcome);
    let decided = decide(&outcome, number, left, &shared.policy.retry, fastrand::u64(..));
    let next = if outcome.is_retryable() && (!spent || may_be_done(shared, &decided, &outcome)) {
        Next::RetryAfter(shared.policy.retry.backoff.delay(number, fastrand::u64(..)))
    } else {
        decided
    };
    if outcome.is_retryable() {
        shared.handler_failed.notify_one();
    }
    debug!(event_id = %event.id, attempt = number, ?next, "attempt ended");
    // 8 act, 9 record
    match (next, outcome) {
        (Next::Complete, _) => {
            shared.metrics.handled.inc();
            done(shared, hold).await
        }
        (Next::RetryAfter(delay), outcome) => {
            if spent && shared.settler.redelivery().ack_wait().is_none() {
                // The broker does not see the next attempt, which is made with this very delivery.
                delivery.delivered_count = delivery.delivered_count.saturating_add(1);
            }
            Some(retry(shared, &event, hold, &outcome, spent, delay).await)
        }
        (Next::GiveUp(reason), outcome) => {
            give_up(shared, delivery, hold, GivenUp::new(reason, outcome.error(), number).traced(trace, &event)).await
        }
        (Next::Leave, _) => {
            shared.metrics.fenced.inc();
            warn!(event_id = %event.id, "the claim was taken over: the effect is rolled back");
            None
        }
    }
}

/// Whether an event is about to be given up whose last attempt was cut before it could say that it had committed. Its dead
/// letter could be put back, and the effect happen again. So it is asked for once more: its next claim meets the record, or
/// finds that no attempt is left.
fn may_be_done(shared: &Shared, next: &Next, outcome: &Outcome) -> bool {
    let in_doubt = matches!(outcome, Outcome::Failed(failure) if failure.effect == Effect::Possible);
    in_doubt && shared.handler.records() && matches!(next, Next::GiveUp(_))
}

/// Why an event is given up without the attempt of this number, where it is.
fn used_up(shared: &Shared, number: u32, left: Option<Duration>) -> Option<GivenUp> {
    let made = number.saturating_sub(1);
    if !shared.policy.retry.allows(number) {
        let error = "every attempt ended with the death of its process or was cut";
        return Some(GivenUp::new(Reason::RetriesExhausted, error, made));
    }
    let expired = left == Some(Duration::ZERO);
    expired.then(|| GivenUp::new(Reason::Expired, "older than delivery.maxAgeSeconds", made))
}

fn decode(shared: &Shared, delivery: &Delivery) -> Result<Event, GivenUp> {
    let size = delivery.payload.len();
    if size > shared.policy.payload_bytes {
        let error = format!("the payload has {size} bytes; the limit is {}", shared.policy.payload_bytes);
        return Err(GivenUp::new(Reason::TooLarge, error, 1));
    }
    Event::decode(&delivery.headers, &delivery.payload, &delivery.origin)
        .map_err(|error| GivenUp::new(error.reason(), error.to_string(), 1))
}

async fn done(shared: &Shared, hold: Option<Hold>) -> Option<Settlement> {
    let Some(hold) = hold else {
        return Some(Settlement::Done);
    };
    let recorded = if shared.handler.records() {
        // In the transaction of its effect.
        Recorded::Yes
    } else {
        record(shared, &hold, &hold.claimed.ended(State::Done)).await
    };
    match recorded {
        Recorded::Yes => {
            shared.done_here(&Name { key: hold.key, fingerprint: hold.claimed.record.fingerprint });
            Some(Settlement::Done)
        }
        Recorded::Fenced | Recorded::Unavailable => {
            // The effect happened and nothing says so: whoever has the event next may repeat it.
            shared.metrics.possible_duplicates.inc();
            None
        }
    }
}

async fn retry(
    shared: &Shared,
    event: &Event,
    hold: Option<Hold>,
    outcome: &Outcome,
    spent: bool,
    delay: Duration,
) -> Settlement {
    shared.metrics.retries.inc();
    info!(event_id = %event.id, error = outcome.error(), delay_ms = delay.as_millis(), "attempt failed, will be repeated");
    if let Some(hold) = hold {
        let effect = match outcome {
            // An effect that its record would show cannot happen twice.
            Outcome::Failed(failure) if !shared.handler.records() => failure.effect,
            Outcome::Failed(_) | Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => Effect::None,
        };
        let released = hold.claimed.record.released(effect, shared.clock.wall());
        let released = if spent { released } else { released.unspent() };
        // Where this cannot be recorded the claim ends by itself, and the next delivery waits for that.
        record(shared, &hold, &released).await;
    }
    Settlement::RetryAfter(delay)
}
