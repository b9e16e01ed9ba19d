//! Tells the broker that work goes on.

use std::{sync::Arc, time::Duration};

use millrace_core::settle::Settlement;
use tracing::debug;

use crate::shared::Shared;

/// Extends what is held every third of the ack wait, for as long as it runs. Returns at once where the broker waits
/// for no settlement.
pub(crate) async fn keep_alive(shared: Arc<Shared>) {
    let Some(ack_wait) = shared.settler.redelivery().ack_wait() else {
        return;
    };
    // Often enough that an extension is late by at most a twelfth of the ack wait.
    let mut ticks = tokio::time::interval((ack_wait / 12).max(Duration::from_millis(50)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = shared.clock.monotonic();
        let due = shared.lane().due(now);
        for (position, receipt) in due {
            match shared.settler.settle(&receipt, Settlement::Extend).await {
                Ok(()) => shared.lane().extended(position, now),
                Err(error) => debug!(%error, "failed to extend a delivery"),
            }
        }
    }
}
