//! What the operator says about an `EventConsumer`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use millrace_config::status::DeliveryGuarantee;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator says about an `EventConsumer`.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventConsumerStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that take events.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Selects the pods of this consumer, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// The kind of its broker, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,

    /// The kind of its handler, for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,

    /// What broker, store and handler together promise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_guarantee: Option<DeliveryGuarantee>,

    /// What waits and what is at work, over all pods; absent until a pod has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,

    /// Dead letters; absent while no pod can tell, and always with a broker that cannot count them (NATS core, Kafka).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<DeadLetters>,

    /// `Ready`: all replicas take events. `Reconciling`: on the way there. `Stalled`: something must be changed first.
    /// `BrokerReady`, `StoreReady` and `HandlerReady`: the parts, as the pods report them. `DurabilityDegraded`: everything works, and something
    /// weakens the promise. `DeadLetterBacklog`: dead letters wait for somebody. `ScalingActive`: the
    /// lag, or somebody else, decides how many pods there are, and can.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What waits and what is at work, over all pods, as of `observedTime`.
///
/// A moving lag is not written with each look. It is written together with anything else that changes; alone after
/// 30 seconds when it moved much (`pending` to or from nothing, or anything by at least ten and a tenth), else after five
/// minutes, and never while it stays.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Events that no replica has taken yet; absent while that is not known, and always with NATS core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pending: Option<i64>,

    /// Events taken and not yet settled.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub in_flight: i64,

    /// Age in seconds of the oldest event at work, rounded down: to 10 seconds, from two minutes on to minutes, from two
    /// hours on to hours. Absent when it is below one second, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub oldest_seconds: Option<i64>,

    /// When the pods said so.
    pub observed_time: Time,
}

/// Dead letters that wait on the dead-letter subject.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetters {
    /// How many wait there, whichever consumer they come from.
    #[schemars(range(min = 0))]
    pub pending: i64,

    /// When the last of them came there, by the broker's clock; absent when none waits, and where a pod may not read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_time: Option<Time>,
}
