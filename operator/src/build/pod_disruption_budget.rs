//! At most one pod at a time is taken away on purpose.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::{
    build::{metadata, selector},
    validate::Valid,
};

pub(super) fn build(valid: &Valid) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(valid),
        spec: Some(PodDisruptionBudgetSpec {
            // Never a minimum: with one replica that would block every drain of its node.
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector { match_labels: Some(selector(&valid.name)), ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
