//! The store of claims.

use std::sync::Arc;

use millrace_config::Store;
use millrace_core::{health::Part, ports::IdempotencyStore};
use millrace_nats::Connection;
use millrace_store::{BucketOptions, JetStreamKvStore, MemoryStore};

use crate::wire::{Parts, seconds};

impl Parts {
    pub(super) async fn open_store(&self, connection: &Connection) -> Option<Arc<dyn IdempotencyStore>> {
        let retention = seconds(self.config.idempotency.retention_seconds);
        let store: Arc<dyn IdempotencyStore> = match self.config.store()? {
            Store { jet_stream_kv: Some(bucket), .. } => {
                let options = BucketOptions {
                    bucket: bucket.bucket,
                    replicas: bucket.replicas.into(),
                    retention,
                    request_timeout: self.request_timeout(),
                };
                let opening = || JetStreamKvStore::open(connection.client(), &options, Arc::clone(&self.clock));
                Arc::new(self.until_it_works(Part::Store, opening).await)
            }
            Store { jet_stream_kv: None, memory } => {
                let entries = memory.unwrap_or_default().max_entries;
                let entries = usize::try_from(entries).unwrap_or(usize::MAX);
                Arc::new(MemoryStore::new(Arc::clone(&self.clock), entries, retention))
            }
        };
        self.health.works(Part::Store);
        Some(store)
    }
}
