//! The store of claims.

use std::{sync::Arc, time::Duration};

use millrace_config::{Redis, Store};
use millrace_core::{
    health::{Health, NoteReason, Part},
    kept::Kept,
    ports::IdempotencyStore,
};
use millrace_engine::tasks;
use millrace_nats::Connection;
use millrace_postgres::PostgresStore;
use millrace_store::{
    BucketOptions, EmbeddedOptions, EmbeddedStore, JetStreamKvStore, MemoryStore, MountedSecret, RedisOptions,
    RedisStore,
};
use tracing::warn;

use crate::wire::{Parts, pauses, seconds};

impl Parts {
    pub(super) async fn open_store(&self, connection: Option<&Connection>) -> Option<Arc<dyn IdempotencyStore>> {
        let store: Arc<dyn IdempotencyStore> = match (self.config.store()?, connection) {
            (Store { jet_stream_kv: Some(bucket), .. }, Some(connection)) => {
                let options = BucketOptions {
                    bucket: bucket.bucket,
                    replicas: bucket.replicas.into(),
                    retention: self.retention(),
                    request_timeout: self.request_timeout(),
                };
                let opening = || JetStreamKvStore::open(connection.client(), &options, Arc::clone(&self.clock));
                Arc::new(self.until_it_works(Part::Store, opening).await)
            }
            (Store { postgres: Some(_), .. }, _) => self.open_postgres().await?,
            (Store { embedded: Some(_), .. }, _) => Arc::new(self.open_embedded().await),
            (Store { redis: Some(redis), .. }, _) => Arc::new(self.open_redis(&redis).await),
            (Store { memory, .. }, _) => {
                let entries = memory.unwrap_or_default().max_entries;
                let entries = usize::try_from(entries).unwrap_or(usize::MAX);
                Arc::new(MemoryStore::new(Arc::clone(&self.clock), entries, self.retention()))
            }
        };
        if !store.is_durable() && self.config.broker.nats.is_none() {
            let message = "claims are kept in the memory of each pod: an event that is delivered to another pod, or after a restart, is handled again; use another idempotency.store";
            self.health.note(NoteReason::StoreNotDurable, Some(message.to_owned()));
        }
        self.health.works(Part::Store);
        Some(store)
    }

    async fn open_postgres(&self) -> Option<Arc<dyn IdempotencyStore>> {
        let database = self.database.as_ref()?;
        let opening = || PostgresStore::open(database.clone(), self.retention());
        let store = Arc::new(self.until_it_works(Part::Store, opening).await);
        let sweeper = Arc::clone(&store);
        tasks::spawn("sweep", async move { sweeper.sweep().await });
        Some(store)
    }

    async fn open_embedded(&self) -> EmbeddedStore {
        let options = EmbeddedOptions {
            path: self.folders.data.join("claims.redb"),
            retention: self.retention(),
            request_timeout: self.request_timeout(),
        };
        self.until_it_works(Part::Store, || EmbeddedStore::open(&options, Arc::clone(&self.clock))).await
    }

    async fn open_redis(&self, redis: &Redis) -> RedisStore {
        let options = RedisOptions {
            secret: MountedSecret {
                name: redis.connection_secret_ref.name.clone(),
                directory: self.folders.secrets.join("store"),
            },
            retention: self.retention(),
            request_timeout: self.request_timeout(),
            reconnect: pauses(&self.config),
        };
        self.until_it_works(Part::Store, || RedisStore::open(&options, Arc::clone(&self.health))).await
    }

    fn retention(&self) -> Duration {
        seconds(self.config.idempotency.retention_seconds)
    }

    /// How long done events are remembered; nothing where they are not.
    pub(super) fn remembered(&self) -> Option<Remembered> {
        self.config.store().map(|_| Remembered(self.retention()))
    }
}

/// How long done events are remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remembered(Duration);

impl Remembered {
    /// A done event must be remembered for as long as its stream or topic, `place`, may deliver it again.
    pub(super) fn compare(self, place: &str, kept: Kept, health: &Health) {
        let keeps = match kept {
            Kept::UntilAcked => return,
            Kept::For(max_age) if max_age <= self.0 => return,
            Kept::For(max_age) => format!("for {} s", max_age.as_secs()),
            Kept::Forever => "without a limit of age".to_owned(),
        };
        let message = format!(
            "{place} keeps events {keeps} and idempotency.retentionSeconds is {}: an event that is delivered again after that is handled again; raise retentionSeconds or have events kept for a shorter time",
            self.0.as_secs()
        );
        warn!(message, "the retention of done events is too short");
        health.note(NoteReason::RetentionTooShort, Some(message));
    }
}
