//! How many pods there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many pods there are.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scaling {
    /// Who decides. `Static`: `replicas`. `External`: `replicas`, which an autoscaler (a `HorizontalPodAutoscaler`, KEDA)
    /// sets by way of the scale subresource of this object; leave it out of your manifests then. The operator never writes
    /// it. `Lag`: the operator, by what the pods report to wait; `replicas` has no influence. `Lag` needs
    /// `broker.jetStream` or `broker.kafka`.
    pub mode: ScalingMode,

    /// Fewest pods with `mode: Lag`. `0` needs `broker.jetStream`, and an administrator who lets the operator ask the broker
    /// (`scaleToZero.enabled` of the chart): it makes the durable, takes the last pod away when nothing waits and nothing is
    /// unacked, and has pods again within two seconds of an event. Where it cannot ask, one pod stays, and the condition
    /// `ScalingActive` is `False` and says why.
    #[schemars(range(min = 0, max = 100))]
    pub min_replicas: i32,

    /// Most pods with `mode: Lag`. On Kafka there are never more than the topics have partitions, and no more than share
    /// them evenly.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,

    /// Events, waiting or at work, that one pod is to have at most with `mode: Lag`. Choose what one pod handles in the time
    /// that events may wait.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub target_pending_per_replica: i64,

    /// Seconds in which everything that waits is to be handled with `mode: Lag`, at the pace that the pods are seen to have.
    /// The larger of the two answers counts. Default: no such target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub target_drain_seconds: Option<u32>,

    /// Seconds for which fewer pods must have been enough before there are fewer. More pods come at once.
    #[schemars(range(min = 0, max = 86_400))]
    pub cooldown_seconds: u32,

    /// What is done while the lag is not known: `Hold` the present number, or take `MinReplicas` or `MaxReplicas`. The condition
    /// `ScalingActive` is `False` meanwhile.
    pub on_unknown_lag: OnUnknownLag,
}

/// Who decides how many pods there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ScalingMode {
    /// The spec.
    #[default]
    Static,
    /// The operator, by the lag.
    Lag,
    /// An autoscaler, by way of the scale subresource.
    External,
}

/// What is done while the lag is not known.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum OnUnknownLag {
    /// The present number stays.
    #[default]
    Hold,
    /// The fewest.
    MinReplicas,
    /// The most.
    MaxReplicas,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: ScalingMode::Static,
            min_replicas: 1,
            max_replicas: 10,
            target_pending_per_replica: 1000,
            target_drain_seconds: None,
            cooldown_seconds: 120,
            on_unknown_lag: OnUnknownLag::Hold,
        }
    }
}
