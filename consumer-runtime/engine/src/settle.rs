//! The end of the line: the broker is told, and the delivery leaves the window.

use std::time::Duration;

use millrace_core::{delivery::Delivery, order::Ordering, ports::Redelivery, settle::Settlement};
use tracing::{debug, warn};

use crate::shared::Shared;

/// Tries to have a settlement confirmed. The effect is recorded by then, so a delivery that comes again is recognised.
const CONFIRM_TRIES: u32 = 3;

/// 10 complete, 11 settle, 12 release. Without a settlement the broker is told nothing.
pub(crate) async fn settle(
    shared: &Shared,
    delivery: Delivery,
    settlement: Option<Settlement>,
    retries: &async_channel::Sender<(Delivery, Duration)>,
) {
    let delay = match settlement {
        Some(Settlement::RetryAfter(delay)) => Some(delay),
        // Whoever has the claim may not come to an end: the successors wait until that is known, and so does the place of
        // a delivery that the broker gives nobody here again.
        None if shared.policy.ordering != Ordering::Unordered => Some(shared.policy.lease),
        None if shared.settler.redelivery() == Redelivery::ToTheNextReader => Some(shared.policy.lease),
        Some(Settlement::Done | Settlement::Extend) | None => None,
    };
    if let Some(delay) = delay.filter(|_| shared.retries_here(&delivery)) {
        // It keeps its place in the window, which bounds the queue.
        if let Err(refused) = retries.try_send((delivery, delay)) {
            let (delivery, _) = refused.into_inner();
            shared.metrics.lost.inc();
            shared.end(&delivery);
        }
        return;
    }
    if let Some(settlement) = settlement {
        send(shared, &delivery, settlement).await;
    } else {
        warn!(origin = %delivery.origin, "left unsettled");
    }
    shared.end(&delivery);
}

/// Gives back a delivery that has not started, so that it is delivered elsewhere.
pub(crate) async fn hand_back(shared: &Shared, delivery: &Delivery) {
    send(shared, delivery, Settlement::RetryAfter(Duration::ZERO)).await;
    shared.metrics.handed_back.inc();
    shared.end(delivery);
}

/// Sends a settlement, if it still may be sent.
pub(crate) async fn send(shared: &Shared, delivery: &Delivery, settlement: Settlement) {
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
