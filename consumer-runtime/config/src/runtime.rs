//! The whole configuration of one runtime process.

use serde::{Deserialize, Serialize};

use crate::{
    Broker, Delivery, Handler, Idempotency, IdempotencyMode, JetStreamKv, Limits, Memory, Ordering, Pick, Store,
    defaults, status::DeliveryGuarantee,
};

const CLAIM_MARGIN_SECONDS: u32 = 10;

/// The whole configuration of one runtime process: the file that the operator renders into a `ConfigMap`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// The `EventConsumer` that this process serves.
    pub consumer: Consumer,
    /// Where the events come from.
    pub broker: Broker,
    /// Subjects to consume; topics with `kafka`.
    pub subjects: Vec<String>,
    /// Types of events that are handled. Empty: all. Others are acked and counted.
    #[serde(default)]
    pub event_types: Vec<String>,
    /// NATS queue group, JetStream durable and Kafka consumer group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_group: Option<String>,
    /// Concurrent handler calls.
    #[serde(default = "defaults::workers")]
    pub workers: u32,
    /// Which events wait for each other.
    #[serde(default)]
    pub ordering: Ordering,
    /// What keeps events in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<Pick>,
    /// How a repeated event is recognised.
    #[serde(default)]
    pub idempotency: Idempotency,
    /// What is done with an event.
    pub handler: Handler,
    /// Attempts, backoff and dead letters.
    #[serde(default)]
    pub delivery: Delivery,
    /// Whether events are taken.
    #[serde(default, skip_serializing_if = "defaults::is_default")]
    pub run_state: RunState,
    /// Seconds that the work in flight may take after SIGTERM.
    #[serde(default = "defaults::drain_timeout_seconds")]
    pub drain_timeout_seconds: u32,
    /// Bounds of queues, waits and retries.
    #[serde(default)]
    pub limits: Limits,
}

/// Whether a consumer works.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RunState {
    /// Events are taken and handled.
    #[default]
    Running,
    /// Pods are there and connected, and take no event.
    Paused,
    /// There are no pods. What the broker keeps for this consumer stays.
    Stopped,
}

/// The identity of an `EventConsumer`. It is part of every idempotency key: do not change how it is used.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl RuntimeConfig {
    /// The queue group, by default `<namespace>-<name>`.
    pub fn queue_group(&self) -> String {
        self.queue_group.clone().unwrap_or_else(|| format!("{}-{}", self.consumer.namespace, self.consumer.name))
    }

    /// The store that claims are kept in, or nothing when the mode asks for none.
    pub fn store(&self) -> Option<Store> {
        match self.idempotency.mode {
            IdempotencyMode::None => None,
            IdempotencyMode::Claim | IdempotencyMode::Transactional => {
                Some(self.idempotency.store.clone().unwrap_or_else(|| self.default_store()))
            }
        }
    }

    /// Seconds that a claim lives: the attempt timeout and a margin in which to record what the attempt did. So a claim
    /// never ends while its attempt may still act, and need not be renewed.
    pub fn claim_seconds(&self) -> u32 {
        self.delivery.attempt_timeout_seconds.saturating_add(CLAIM_MARGIN_SECONDS)
    }

    /// Whether two pods at once would break what is promised.
    pub fn needs_one_pod(&self) -> bool {
        // NATS core spreads the events of a key over all pods of a queue group.
        let spreads_keys = self.ordering == Ordering::Key && self.broker.nats.is_some();
        spreads_keys || self.has_own_volume()
    }

    /// Whether claims are on a volume of the consumer's own.
    pub fn has_own_volume(&self) -> bool {
        self.store().is_some_and(|store| store.embedded.is_some())
    }

    /// What broker, store and handler together promise.
    pub fn delivery_guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::of(&self.broker, &self.idempotency)
    }

    fn default_store(&self) -> Store {
        if self.broker.jet_stream.is_some() {
            Store { jet_stream_kv: Some(JetStreamKv::default()), ..Store::default() }
        } else {
            Store { memory: Some(Memory::default()), ..Store::default() }
        }
    }
}
