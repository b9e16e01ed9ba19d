//! Claims in a JetStream key-value bucket. The revision of an entry is the fencing token of its claim.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        self,
        context::{CreateKeyValueErrorKind, KeyValueErrorKind},
        kv::{self, UpdateErrorKind},
        stream::StorageType,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    claim::{Record, Verdict, Wish, judge},
    health::{Trouble, TroubleReason},
    key::Key,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
    time::Clock,
};

use crate::{server_time::ServerTime, unsure::Unsure};

/// Tries to claim while others write the same entry.
const CLAIM_TRIES: u32 = 4;

/// The bucket that claims are kept in.
#[derive(Clone, Debug)]
pub struct BucketOptions {
    /// Its name.
    pub bucket: String,
    /// Copies that the servers keep of a new bucket.
    pub replicas: usize,
    /// How long a done event must be remembered.
    pub retention: Duration,
    /// The time that one request may take.
    pub request_timeout: Duration,
}

/// Claims in a JetStream key-value bucket, shared by all replicas of a consumer.
///
/// A fresh claim and its end take one round trip each. Entries are never deleted; the bucket's maximum age forgets
/// them.
pub struct JetStreamKvStore {
    bucket: kv::Store,
    time: ServerTime,
    unsure: Unsure,
}

impl JetStreamKvStore {
    /// Opens the bucket, and makes it when it does not exist.
    ///
    /// # Errors
    /// `BucketConflict` when it forgets earlier than `retention`; `Failing` when the server does not do it.
    pub async fn open(client: Client, options: &BucketOptions, clock: Arc<dyn Clock>) -> Result<Self, Trouble> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(options.request_timeout);
        let bucket = match context.get_key_value(&options.bucket).await {
            Ok(bucket) => bucket,
            Err(error) if error.kind() == KeyValueErrorKind::GetBucket => create(&context, options).await?,
            Err(error) => return Err(failing(options, &error)),
        };
        let status = bucket.status().await.map_err(|error| failing(options, &error))?;
        let max_age = status.max_age();
        if !max_age.is_zero() && max_age < options.retention {
            return Err(Trouble::new(
                TroubleReason::BucketConflict,
                format!(
                    "bucket {:?} forgets after {} s and idempotency.retentionSeconds is {}; raise the bucket's maximum age or name another bucket",
                    options.bucket,
                    max_age.as_secs(),
                    options.retention.as_secs()
                ),
            ));
        }
        let time = ServerTime::new(client, &format!("KV_{}", options.bucket), clock);
        Ok(Self { bucket, time, unsure: Unsure::default() })
    }

    /// The entry of a key, with its revision; revision 0 where there is none.
    async fn read(&self, key: &Key) -> Result<(Option<Record>, u64), StoreError> {
        let Some(entry) = self.bucket.entry(key.to_string()).await.map_err(|error| unavailable(&error))? else {
            return Ok((None, 0));
        };
        if entry.operation != kv::Operation::Put {
            // Somebody has deleted the entry, so that the event is handled again.
            return Ok((None, entry.revision));
        }
        let record = serde_json::from_slice(&entry.value)
            .map_err(|error| StoreError::Unavailable(format!("entry {key} cannot be read: {error}")))?;
        Ok((Some(record), entry.revision))
    }

    /// Writes a record on condition that the entry is still at `revision`. The new revision, or `None` when it is not.
    async fn write(&self, key: &Key, record: &Record, revision: u64) -> Result<Option<u64>, StoreError> {
        let value = serde_json::to_vec(record).map_err(|error| unavailable(&error))?;
        match self.bucket.update(key.to_string(), Bytes::from(value), revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Writes a claim, and remembers it while nobody knows whether it was written.
    async fn write_claim(&self, key: &Key, record: &Record, revision: u64) -> Result<Option<u64>, StoreError> {
        let written = self.write(key, record, revision).await;
        self.unsure.note(key, record, written.as_ref().map(Option::is_some));
        written
    }
}

async fn create(context: &jetstream::Context, options: &BucketOptions) -> Result<kv::Store, Trouble> {
    let config = kv::Config {
        bucket: options.bucket.clone(),
        description: "Claims and done events of Millrace consumers".to_owned(),
        history: 1,
        max_age: options.retention,
        storage: StorageType::File,
        num_replicas: options.replicas,
        ..kv::Config::default()
    };
    context.create_key_value(config).await.map_err(|error| match error.kind() {
        CreateKeyValueErrorKind::BucketCreate => Trouble::new(
            TroubleReason::BucketConflict,
            format!("bucket {:?} cannot be made: {error}; correct idempotency.store.jetStreamKV", options.bucket),
        ),
        _ => failing(options, &error),
    })
}

fn failing(options: &BucketOptions, error: &dyn std::fmt::Display) -> Trouble {
    Trouble::new(TroubleReason::Failing, format!("failed to open bucket {:?}: {error}", options.bucket))
}

fn unavailable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

#[async_trait]
impl IdempotencyStore for JetStreamKvStore {
    async fn claim(&self, key: &Key, wish: &Wish) -> Result<Claim, StoreError> {
        let now = self.time.now().await?;
        // Most events are new: the first try supposes that, and needs no read.
        let (mut existing, mut revision) = (None, 0);
        for _ in 0..CLAIM_TRIES {
            let record = match judge(existing.as_ref(), wish, now) {
                Verdict::Claim(record) => record,
                Verdict::Settled => return Ok(Claim::Settled),
                Verdict::Busy(remaining) => return Ok(Claim::Busy(remaining)),
                Verdict::Conflict => return Ok(Claim::Conflict),
            };
            if let Some(token) = self.write_claim(key, &record, revision).await? {
                return Ok(Claim::Claimed(Claimed { token, record }));
            }
            let (record, at) = self.read(key).await?;
            existing = record.map(|record| self.unsure.without_own_claim(key, record));
            revision = at;
        }
        // Others are quicker each time: whoever won has it now.
        Ok(Claim::Busy(wish.lease))
    }

    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError> {
        if self.write(key, record, claim.token).await?.is_some() {
            return Ok(());
        }
        // An earlier try may have been written without our hearing of it. Nobody else writes this record: a later claim
        // has a higher number of attempts.
        match self.read(key).await? {
            (Some(current), _) if current == *record => Ok(()),
            _ => Err(StoreError::Fenced),
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.time.read().await.map(drop)
    }

    fn is_durable(&self) -> bool {
        true
    }
}
