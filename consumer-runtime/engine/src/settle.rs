//! The end of the line: the broker is told, and the deliveries leave the window.

use std::time::Duration;

use millrace_core::{
    delivery::{Delivery, Receipt},
    order::Ordering,
    ports::Redelivery,
    settle::Settlement,
};
use tracing::{debug, warn};

use crate::shared::{Ended, Shared};

/// Tries to have a settlement confirmed. The effect is recorded by then, so a delivery that comes again is recognised.
const CONFIRM_TRIES: u32 = 3;

/// A delivery that was carried through.
pub(crate) struct Carried {
    pub(crate) delivery: Delivery,
    /// What the broker is to be told about it; nothing where the claim went to somebody else.
    pub(crate) settlement: Option<Settlement>,
}

/// 10 complete, 11 settle, 12 release.
pub(crate) async fn settle(shared: &Shared, carried: Vec<Carried>) {
    send_done(shared, &carried).await;
    let mut ended = Vec::with_capacity(carried.len());
    for Carried { delivery, settlement } in carried {
        let end = Ended::of(&delivery);
        match settlement {
            Some(Settlement::Done) => {}
            Some(Settlement::RetryAfter(_) | Settlement::Extend) | None => {
                if let Some(delay) = stays_for(shared, &delivery, settlement) {
                    // It keeps its place in the window, which bounds the queue.
                    if shared.retries.try_send((delivery, delay)).is_ok() {
                        continue;
                    }
                    shared.metrics.lost.inc();
                } else if let Some(settlement) = settlement {
                    send(shared, &delivery, settlement).await;
                } else {
                    warn!(origin = %delivery.origin, "left unsettled");
                }
            }
        }
        ended.push(end);
    }
    shared.end(&ended);
    shared.circuit.delivery_ended();
}

/// How long a delivery that is not done waits in this process, where it does.
fn stays_for(shared: &Shared, delivery: &Delivery, settlement: Option<Settlement>) -> Option<Duration> {
    let delay = match settlement {
        Some(Settlement::RetryAfter(delay)) => Some(delay),
        // Whoever has the claim may not come to an end: the successors wait until that is known, and so does the place of
        // a delivery that the broker gives nobody here again.
        None if shared.policy.ordering != Ordering::Unordered => Some(shared.policy.lease),
        None if shared.settler.redelivery() == Redelivery::ToTheNextReader => Some(shared.policy.lease),
        Some(Settlement::Done | Settlement::Extend) | None => None,
    };
    delay.filter(|_| shared.retries_here(delivery))
}

/// Gives back a delivery that has not started, so that it is delivered elsewhere.
pub(crate) async fn hand_back(shared: &Shared, delivery: &Delivery) {
    send(shared, delivery, Settlement::RetryAfter(Duration::ZERO)).await;
    shared.metrics.handed_back.inc();
    shared.end(&[Ended::of(delivery)]);
}

/// Tells the broker of those that are done, all at once.
async fn send_done(shared: &Shared, carried: &[Carried]) {
    let receipts: Vec<Receipt> = {
        let (lane, now) = (shared.lane(), shared.clock.monotonic());
        let done = carried.iter().filter(|one| one.settlement == Some(Settlement::Done));
        done.filter_map(|one| lane.permit(one.delivery.position, Settlement::Done, now).cloned()).collect()
    };
    if receipts.is_empty() {
        return;
    }
    for _ in 0..CONFIRM_TRIES {
        match shared.settler.done(&receipts).await {
            Ok(()) => return,
            Err(error) => debug!(%error, "settlements not confirmed"),
        }
    }
    shared.metrics.unconfirmed_settlements.inc_by(u64::try_from(receipts.len()).unwrap_or(u64::MAX));
    warn!(
        count = receipts.len(),
        "settlements not confirmed: their events may be delivered again and will be recognised"
    );
}

/// Sends a settlement, if it still may be sent.
async fn send(shared: &Shared, delivery: &Delivery, settlement: Settlement) {
    for _ in 0..CONFIRM_TRIES {
        let now = shared.clock.monotonic();
        let Some(receipt) = shared.lane().permit(delivery.position, settlement, now).cloned() else {
            debug!(origin = %delivery.origin, ?settlement, "not sent: the ack deadline has passed");
            return;
        };
        match shared.settler.settle(&receipt, settlement).await {
            Ok(()) => return,
            Err(error) => debug!(%error, origin = %delivery.origin, "settlement not confirmed"),
        }
    }
    shared.metrics.unconfirmed_settlements.inc();
    warn!(origin = %delivery.origin, "settlement not confirmed: the event may be delivered again and will be recognised");
}
