//! What the operator says about an `EventConsumer`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use millrace_config::status::DeliveryGuarantee;
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

    /// `Ready`: all replicas take events. `Reconciling`: on the way there. `Stalled`: something must be changed first.
    /// `BrokerReady`, `StoreReady` and `HandlerReady`: the parts, as the pods report them. `DurabilityDegraded`: everything works, and something
    /// weakens the promise.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
