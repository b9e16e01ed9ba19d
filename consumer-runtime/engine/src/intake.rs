//! Takes deliveries from the broker: room first, then read.

use millrace_core::{
    delivery::Delivery,
    health::{Part, Trouble, TroubleReason},
    ports::{ReadError, Reader, StoreError},
    window::Budget,
};
use tracing::{info, warn};

use crate::shared::Shared;

/// Takes deliveries and queues them for the workers, until it is dropped or nothing can be taken any more: then it says
/// why. Cancel safe: a delivery that was taken is in the queue.
pub(crate) async fn take(shared: &Shared, reader: &mut dyn Reader) -> String {
    let mut failures = 0;
    loop {
        let mut budget = tokio::select! {
            biased;
            budget = room(shared) => budget,
            // What is waited for may be waiting for the client.
            reason = reader.failed() => return reason,
        };
        if shared.circuit.is_probing() {
            budget.messages = 1;
        }
        let batch = tokio::select! {
            // While store or handler does not work nothing can be handled, so nothing is taken either.
            biased;
            () = shared.store_gate.wait(false) => continue,
            () = shared.handler_gate.wait(false) => continue,
            () = shared.circuit.gate.wait(false) => continue,
            () = shared.pause_gate.wait(false) => continue,
            batch = reader.next_batch(budget) => batch,
        };
        shared.metrics.lost.inc_by(reader.dropped());
        match batch {
            Ok(batch) => {
                failures = 0;
                shared.circuit.fetched();
                register(shared, batch);
            }
            Err(ReadError::Fatal(reason)) => return reason,
            Err(error @ ReadError::ForNow(_)) => {
                failures += 1;
                warn!(%error, failures, "failed to take deliveries");
                tokio::time::sleep(shared.policy.reconnect.delay(failures, fastrand::u64(..))).await;
            }
        }
    }
}

/// The room that there is, once everything works that handles what is taken.
async fn room(shared: &Shared) -> Budget {
    shared.store_gate.wait(true).await;
    shared.handler_gate.wait(true).await;
    shared.circuit.gate.wait(true).await;
    shared.pause_gate.wait(true).await;
    shared.room().await
}

/// 2 register: a copy of what is at work here already is dropped.
pub(crate) fn register(shared: &Shared, batch: Vec<Delivery>) {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let (taken, again) = (batch.len(), batch.iter().filter(|delivery| delivery.delivered_count > 1).count());
    let new = shared.begin(batch);
    shared.metrics.deliveries.inc_by(count(taken));
    shared.metrics.redeliveries.inc_by(count(again));
    shared.metrics.dropped_copies.inc_by(count(taken.saturating_sub(new.len())));
    shared.enqueue(new);
}

/// Waits for the store to fail, then asks it until it answers, for as long as it runs.
pub(crate) async fn watch_store(shared: &Shared) {
    let Some(store) = &shared.store else { return std::future::pending().await };
    loop {
        shared.store_gate.wait(false).await;
        let mut failures = 0;
        while let Err(error) = store.ping().await {
            failures += 1;
            shared.health.fails(Part::Store, Trouble::new(TroubleReason::Failing, error.to_string()));
            tokio::time::sleep(shared.policy.reconnect.delay(failures, fastrand::u64(..))).await;
        }
        info!("the store answers again");
        shared.health.works(Part::Store);
        shared.store_gate.set(true);
    }
}

impl Shared {
    /// The store did not do what was asked: fetching stops until it answers again.
    pub(crate) fn store_fails(&self, error: &StoreError) {
        if self.health.fails(Part::Store, Trouble::new(TroubleReason::Failing, error.to_string())) {
            warn!(%error, "the store does not answer: fetching stops");
        }
        self.store_gate.set(false);
    }
}
