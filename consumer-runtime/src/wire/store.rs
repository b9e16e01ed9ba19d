//! The store of claims.

use std::{sync::Arc, time::Duration};

use millrace_config::Store;
use millrace_core::{health::Part, ports::IdempotencyStore};
use millrace_engine::tasks;
use millrace_nats::Connection;
use millrace_postgres::PostgresStore;
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
            Store { postgres: Some(_), .. } => self.open_postgres(retention).await?,
            Store { memory, .. } => {
                let entries = memory.unwrap_or_default().max_entries;
                let entries = usize::try_from(entries).unwrap_or(usize::MAX);
                Arc::new(MemoryStore::new(Arc::clone(&self.clock), entries, retention))
            }
        };
        self.health.works(Part::Store);
        Some(store)
    }

    async fn open_postgres(&self, retention: Duration) -> Option<Arc<dyn IdempotencyStore>> {
        let database = self.database.as_ref()?;
        let opening = || PostgresStore::open(database.clone(), retention);
        let store = Arc::new(self.until_it_works(Part::Store, opening).await);
        let sweeper = Arc::clone(&store);
        tasks::spawn("sweep", async move { sweeper.sweep().await });
        Some(store)
    }
}
