//! Figures that change with time alone.

use std::{sync::Arc, time::Duration};

use crate::shared::Shared;

/// How often they are brought up to date: as often as somebody may look.
const INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the age of the oldest delivery up to date, for as long as it runs.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let oldest = shared.lane().oldest();
        let age = oldest.map(|oldest| shared.clock.wall().duration_since(oldest));
        // A delivery of the future, by clocks that differ, is new.
        let seconds = age.map_or(0, |age| age.as_secs().max(0));
        shared.metrics.oldest_seconds.set(seconds);
    }
}
