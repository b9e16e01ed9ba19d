//! The Job that deletes the durable of a consumer that is being deleted. It has the consumer's own Secrets, so that the
//! operator need not read any.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    build::{Settings, deployment::pod_spec, metadata},
    validate::Valid,
};

/// Seconds that the Job may take. The operator waits a little longer, for a pod that must be started.
const DEADLINE_SECONDS: i64 = 45;

/// How often a pod is started anew. One of them tries for as long as it may.
const RESTARTS_MAX: i32 = 2;

/// The name of the Job.
pub(crate) fn name(valid: &Valid) -> String {
    format!("{}-delete-durable", valid.name)
}

pub(crate) fn build(valid: &Valid, settings: &Settings) -> Job {
    let labels = BTreeMap::from([
        // Not those of the consumer's pods: nobody may take it for one of them.
        ("app.kubernetes.io/name".to_owned(), "millrace-delete-durable".to_owned()),
        ("app.kubernetes.io/instance".to_owned(), valid.name.clone()),
        ("app.kubernetes.io/managed-by".to_owned(), "millrace".to_owned()),
    ]);
    Job {
        metadata: ObjectMeta { name: Some(name(valid)), labels: Some(labels.clone()), ..metadata(valid) },
        spec: Some(JobSpec {
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            backoff_limit: Some(RESTARTS_MAX),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod(valid, settings)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// The pod of the consumer with another command, and without the volume of its claims.
fn pod(valid: &Valid, settings: &Settings) -> PodSpec {
    let mut pod = pod_spec(valid, settings);
    pod.restart_policy = Some("Never".to_owned());
    for container in &mut pod.containers {
        container.args.get_or_insert_default().push("delete-durable".to_owned());
        (container.liveness_probe, container.readiness_probe, container.ports) = (None, None, None);
        container.volume_mounts.get_or_insert_default().retain(|mount| mount.name != "data");
    }
    pod.volumes.get_or_insert_default().retain(|volume| volume.name != "data");
    pod
}
