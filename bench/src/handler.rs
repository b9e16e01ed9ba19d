//! The handler that the runtime is measured with: it notes each event, and sleeps where that is asked for.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::Event;

use crate::{ledger::Ledger, meter::Meter};

pub(crate) struct Noting {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) sleep: Duration,
}

#[async_trait]
impl Handler for Noting {
    async fn call(&self, event: &Event, _context: &Context<'_>) -> Outcome {
        if !self.sleep.is_zero() {
            self.meter.started();
            tokio::time::sleep(self.sleep).await;
        }
        if self.ledger.note(event.id.as_str()) == 0 {
            self.meter.started();
        }
        Outcome::Done
    }

    async fn check(&self) -> Result<(), Trouble> {
        Ok(())
    }
}
