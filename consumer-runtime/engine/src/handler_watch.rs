//! Watches over the handler: while it cannot work, no event is taken and no attempt spent on it.

use std::sync::Arc;

use millrace_core::health::{Part, Trouble};
use tracing::{info, warn};

use crate::shared::Shared;

/// After an attempt has failed, asks the handler whether it can work at all; if not, stops the intake and asks again and
/// again until it can. For as long as it runs.
pub(crate) async fn watch(shared: Arc<Shared>) {
    loop {
        shared.handler_failed.notified().await;
        if let Err(trouble) = shared.handler.check().await {
            shared.handler_gate.set(false);
            heal(&shared, trouble).await;
            shared.handler_gate.set(true);
            shared.circuit.probe();
        }
        // Attempts that fail one by one, each with an answer of its own, ask for no more checks than this.
        tokio::time::sleep(shared.policy.reconnect.max).await;
    }
}

async fn heal(shared: &Shared, trouble: Trouble) {
    warn!(reason = ?trouble.reason, message = trouble.message, "the handler cannot work: fetching stops");
    let mut failures = 0;
    let mut last = Err(trouble);
    while let Err(trouble) = last {
        failures += 1;
        shared.health.fails(Part::Handler, trouble);
        tokio::time::sleep(shared.policy.reconnect.delay(failures, fastrand::u64(..))).await;
        last = shared.handler.check().await;
    }
    info!("the handler works again");
    shared.health.works(Part::Handler);
}
