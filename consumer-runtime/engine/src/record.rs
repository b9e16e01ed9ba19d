//! Recording how a claim ended, with patience: an effect that happened and is not recorded may happen again.

use millrace_core::{
    claim::Record,
    ports::{Hold, StoreError},
};
use tracing::warn;

use crate::shared::Shared;

/// What became of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Recorded {
    /// It is written.
    Yes,
    /// Somebody else had taken the claim over. Nothing was written.
    Fenced,
    /// The store did not answer for the whole record time.
    Unavailable,
}

/// Writes `record` on behalf of a claim, again and again while the store does not answer, for at most the record time.
pub(crate) async fn record(shared: &Shared, hold: &Hold, record: &Record) -> Recorded {
    let Some(store) = &shared.store else {
        return Recorded::Yes;
    };
    let mut deadline = None;
    let mut failures = 0;
    loop {
        let answer = shared.timed(&shared.metrics.end_seconds, store.end(&hold.key, &hold.claimed, record)).await;
        match answer {
            Ok(()) => return Recorded::Yes,
            Err(StoreError::Fenced) => {
                shared.metrics.fenced.inc();
                warn!(key = %hold.key, "the claim was taken over: its record is refused");
                return Recorded::Fenced;
            }
            Err(error @ StoreError::Unavailable(_)) => {
                shared.store_fails(&error);
                failures += 1;
                let pause = shared.policy.reconnect.delay(failures, fastrand::u64(..));
                let now = shared.clock.monotonic();
                if now.after(pause) >= *deadline.get_or_insert_with(|| now.after(shared.policy.record_time)) {
                    return Recorded::Unavailable;
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}
