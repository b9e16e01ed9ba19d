//! Settling Kafka deliveries: noted here, told by the next commit.

use std::sync::Arc;

use async_trait::async_trait;
use millrace_core::{
    delivery::Receipt,
    ports::{Redelivery, SettleError, Settler},
    settle::Settlement,
};

use crate::{context::Shared, worker::Requests};

/// Settles deliveries of one source.
#[derive(Clone)]
pub struct KafkaSettler {
    shared: Arc<Shared>,
    requests: Arc<Requests>,
}

impl KafkaSettler {
    pub(crate) fn new(shared: Arc<Shared>, requests: Arc<Requests>) -> Self {
        Self { shared, requests }
    }
}

#[async_trait]
impl Settler for KafkaSettler {
    async fn settle(&self, receipt: &Receipt, settlement: Settlement) -> Result<(), SettleError> {
        match settlement {
            Settlement::Done => self.shared.lanes.settle(std::slice::from_ref(receipt)),
            Settlement::RetryAfter(_) => self.shared.lanes.let_go(receipt),
            // The broker waits for no delivery.
            Settlement::Extend => {}
        }
        Ok(())
    }

    async fn done(&self, receipts: &[Receipt]) -> Result<(), SettleError> {
        self.shared.lanes.settle(receipts);
        Ok(())
    }

    async fn flush(&self) -> Result<(), SettleError> {
        let flushed = self.requests.flush(&self.shared.lanes).await;
        flushed.unwrap_or_else(|_| Err("the client is closed".to_owned())).map_err(SettleError)
    }

    fn owns(&self, receipt: &Receipt) -> bool {
        self.shared.lanes.owns(receipt)
    }

    fn redelivery(&self) -> Redelivery {
        Redelivery::ToTheNextReader
    }
}
