//! At most one pod at a time is taken away on purpose.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use millrace_operator_api::ScalingMode;

use crate::{
    build::{metadata, selector},
    validate::Valid,
};

/// Nothing where there is never more than one pod: there it would allow everything. One that is left from before does no
/// harm, so none is ever deleted.
pub(super) fn build(valid: &Valid) -> Option<PodDisruptionBudget> {
    let most = match valid.scaling.mode {
        ScalingMode::Lag => valid.replicas.max(valid.scaling.max_replicas),
        ScalingMode::Static | ScalingMode::External => valid.replicas,
    };
    (most > 1).then(|| PodDisruptionBudget {
        metadata: metadata(valid),
        spec: Some(PodDisruptionBudgetSpec {
            // Never a minimum: with one replica that would block every drain of its node.
            max_unavailable: Some(IntOrString::Int(1)),
            // A pod that takes no events is none to protect: else its node could not be drained before somebody mends it.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            selector: Some(LabelSelector { match_labels: Some(selector(&valid.name)), ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
