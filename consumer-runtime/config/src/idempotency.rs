//! How a repeated event is recognised.

use serde::{Deserialize, Serialize};

use crate::{Pick, broker::SecretRef, defaults};

/// How a repeated event is recognised, so that its effect happens once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Idempotency {
    /// `Claim`: an event id is claimed in the store before its handler runs and recorded as done after it; a repeated
    /// event is skipped. `Transactional`: the same, and the effect and its record are committed in one transaction, so
    /// that a crash cannot part them; it needs `store.postgres` and a handler that commits to it: `inventory`, or
    /// `analytics` with `store: Postgres`. `None`: every delivery is handled.
    #[serde(default)]
    pub mode: IdempotencyMode,

    /// What an event is known by. Default: its source and id. With a key of your own, events with the same value are the
    /// same event, whatever else they say: the first is handled, the others are skipped. An event without a value is
    /// given up with the reason `InvalidId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Pick>,

    /// Seconds that a done event is remembered. Make it at least as long as the stream or topic keeps its events.
    #[serde(default = "defaults::retention_seconds")]
    #[cfg_attr(feature = "schema", schemars(range(min = 60, max = 31_536_000)))]
    pub retention_seconds: u32,

    /// Where claims are kept: exactly one of `embedded`, `jetStreamKV`, `memory`, `postgres` and `redis`. Default:
    /// `jetStreamKV` with a `jetStream` broker, `memory` with `nats`. With `kafka` it must be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
}

/// How a repeated event is recognised.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum IdempotencyMode {
    /// Not at all: every delivery is handled.
    None,
    /// By a claim on its id.
    #[default]
    Claim,
    /// By a claim that ends in the transaction of the effect.
    Transactional,
}

/// Where claims are kept: exactly one member.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// A file on a volume of the consumer's own. For one pod: `replicas` is 0 or 1, and a pod is gone before the next one
    /// starts. Each claim is on the disk before its handler runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<Embedded>,

    /// A JetStream key-value bucket on the same servers as the `jetStream` broker. Shared by all replicas; survives
    /// their restarts.
    #[serde(default, rename = "jetStreamKV", skip_serializing_if = "Option::is_none")]
    pub jet_stream_kv: Option<JetStreamKv>,

    /// A table in PostgreSQL. Shared by all replicas; survives their restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,

    /// The memory of one pod: not shared between replicas and gone when the pod ends. For trying out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,

    /// Redis 7 or Valkey. Shared by all replicas; survives their restarts, and those of the server as far as it is set up
    /// for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
}

impl Store {
    /// How many members are set.
    pub fn members(&self) -> usize {
        [
            self.embedded.is_some(),
            self.jet_stream_kv.is_some(),
            self.memory.is_some(),
            self.postgres.is_some(),
            self.redis.is_some(),
        ]
        .into_iter()
        .filter(|set| *set)
        .count()
    }
}

/// A file on a volume of the consumer's own.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Embedded {
    /// The `PersistentVolumeClaim` that is made for it: `<name>-claims`, `ReadWriteOnce`. It is deleted with the
    /// `EventConsumer`, and what is done is forgotten with it.
    pub volume_claim: VolumeClaim,
}

/// A claim on a persistent volume.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaim {
    /// Name of the `StorageClass`. Default: the cluster's default class. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub storage_class_name: Option<String>,

    /// Size of the volume, for example `1Gi`: a whole number of `Mi`, `Gi` or `Ti`, at least `64Mi`. An event takes some
    /// 500 bytes for `retentionSeconds`, so 1Gi holds two million. When it is full, no event is taken. It can be raised
    /// where the `StorageClass` allows that.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 3, max = 8),
            regex(pattern = r"^([1-9][0-9]*[GT]i|(6[4-9]|[7-9][0-9]|[1-9][0-9]{2,})Mi)$")
        )
    )]
    pub size: String,
}

impl VolumeClaim {
    /// The size in MiB; nothing where it is not a size.
    pub fn mebibytes(&self) -> Option<u64> {
        let (number, factor) = [("Mi", 1), ("Gi", 1024), ("Ti", 1024 * 1024)]
            .into_iter()
            .find_map(|(unit, factor)| Some((self.size.strip_suffix(unit)?, factor)))?;
        number.parse::<u64>().ok()?.checked_mul(factor)
    }
}

/// Redis 7 or Valkey: one server, or one behind a stable address. Not a cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// Secret that says where the server is. Keys: `url` (`redis://host:port/database`, or `rediss://` for TLS) and, where
    /// they are needed, `username`, `password`, and `ca.crt` (the authorities to trust, in PEM; default: those of the
    /// image). A Secret that is changed is used from the next connection on.
    ///
    /// The server must have `maxmemory-policy noeviction`. What it loses is handled again when it is delivered again: in a
    /// crash without `appendonly yes` and `appendfsync always` (told in the condition `DurabilityDegraded`), in a
    /// failover to a copy that lags behind, by `FLUSHALL`.
    pub connection_secret_ref: SecretRef,
}

/// A JetStream key-value bucket. It is made when it does not exist.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct JetStreamKv {
    /// Name of the bucket. Consumers may share one: keys carry the consumer's identity. The bucket's maximum age must
    /// be at least `retentionSeconds`; a new bucket gets just that.
    #[serde(default = "defaults::bucket")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_-]+$")))]
    pub bucket: String,

    /// Copies that the servers keep of a new bucket.
    #[serde(default = "defaults::bucket_replicas")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 5)))]
    pub replicas: u8,
}

/// A table in PostgreSQL 13 or newer, `millrace.claims`. It is made when it does not exist, which needs the right CREATE
/// on the database, or a schema `millrace` with USAGE and CREATE on it; without these somebody else must have made it.
/// Consumers may share a database: keys carry the consumer's identity. Claims are deleted when `retentionSeconds` are
/// over. A pooler between must keep one server connection for each client connection (session pooling).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Postgres {
    /// Secret in the same namespace that describes the database: `url`, for example
    /// `postgres://user:password@db.shop.svc:5432/shop`, or `host`, `user`, `password`, `dbname` and, where they are not
    /// the usual ones, `port` and `sslmode`. `sslmode`, in the URL or as a key: `verify-full` (default) and `require`
    /// both mean TLS with a certificate that is trusted and fits the host name; `disable` means none. `ca.crt`: PEM of
    /// the authority to trust in place of the usual ones. `tls.crt` and `tls.key`: PEM of a certificate to show. A
    /// changed Secret is used from the next connection on, at the latest after 15 minutes.
    pub connection_secret_ref: SecretRef,
}

/// Claims in the memory of one pod.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Largest number of event ids remembered, in some 32 bytes each. When it is reached, the older half of those that
    /// are done is forgotten.
    #[serde(default = "defaults::memory_max_entries")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1000, max = 10_000_000)))]
    pub max_entries: u32,
}

impl Idempotency {
    /// The Secret that the store needs.
    pub fn store_secret_ref(&self) -> Option<&SecretRef> {
        let store = self.store.as_ref()?;
        let of_redis = store.redis.as_ref().map(|redis| &redis.connection_secret_ref);
        store.postgres.as_ref().map(|postgres| &postgres.connection_secret_ref).or(of_redis)
    }
}

impl Default for Idempotency {
    fn default() -> Self {
        Self {
            mode: IdempotencyMode::default(),
            key: None,
            retention_seconds: defaults::retention_seconds(),
            store: None,
        }
    }
}

impl Default for JetStreamKv {
    fn default() -> Self {
        Self { bucket: defaults::bucket(), replicas: defaults::bucket_replicas() }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { max_entries: defaults::memory_max_entries() }
    }
}
