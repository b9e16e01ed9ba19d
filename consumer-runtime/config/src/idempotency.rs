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

    /// Seconds that a done event is remembered. Make it at least as long as the stream keeps its events.
    #[serde(default = "defaults::retention_seconds")]
    #[cfg_attr(feature = "schema", schemars(range(min = 60, max = 31_536_000)))]
    pub retention_seconds: u32,

    /// Where claims are kept: exactly one member. Default: `jetStreamKV` with a `jetStream` broker, `memory` with
    /// `nats`.
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

/// Where claims are kept: exactly one of `jetStreamKV`, `postgres` and `memory`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Store {
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
    /// Largest number of event ids remembered. When it is reached, the oldest done ones are forgotten first.
    #[serde(default = "defaults::memory_max_entries")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1000, max = 10_000_000)))]
    pub max_entries: u32,
}

impl Idempotency {
    /// The Secret that the store needs.
    pub fn store_secret_ref(&self) -> Option<&SecretRef> {
        self.store.as_ref()?.postgres.as_ref().map(|postgres| &postgres.connection_secret_ref)
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
