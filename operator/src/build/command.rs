//! The pod of a consumer for a Job: with its Secrets and configuration, so that the operator need not read any, and another
//! command.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use crate::{
    build::{Settings, deployment::pod_spec},
    validate::Valid,
};

/// The pod of the consumer with these arguments behind its own, and without the volume of its claims.
pub(super) fn pod(valid: &Valid, settings: &Settings, arguments: impl IntoIterator<Item = String>) -> PodSpec {
    let mut pod = pod_spec(valid, settings);
    // The kubelet would replace `$(NAME)` in what a user wrote.
    let mut arguments: Vec<_> = arguments.into_iter().map(|argument| argument.replace('$', "$$")).collect();
    for container in &mut pod.containers {
        container.args.get_or_insert_default().append(&mut arguments);
        (container.liveness_probe, container.readiness_probe, container.ports) = (None, None, None);
        container.volume_mounts.get_or_insert_default().retain(|mount| mount.name != "data");
    }
    pod.volumes.get_or_insert_default().retain(|volume| volume.name != "data");
    pod
}

/// The labels of a Job and its pods. Not those of the consumer's pods: nobody may take it for one of them.
pub(super) fn labels(name: &str, instance: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), name.to_owned()),
        ("app.kubernetes.io/instance".to_owned(), instance.to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), "millrace".to_owned()),
    ])
}
