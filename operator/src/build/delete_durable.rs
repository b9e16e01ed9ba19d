//! The Job that deletes the durable of a consumer that is being deleted. It has the consumer's own Secrets, so that the
//! operator need not read any.

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    build::{Settings, command, metadata},
    validate::Valid,
};

/// Seconds that the Job may take. The operator waits a little longer, for a pod that must be started.
const DEADLINE_SECONDS: i64 = 45;

/// How often a pod is started anew. One of them tries for as long as it may.
const RESTARTS_MAX: i32 = 2;

/// The name of the Job. With the longest name of a consumer it has 62 characters, of the 63 that a label of its pods may have.
pub(crate) fn name(valid: &Valid) -> String {
    format!("{}-del-durable", valid.name)
}

pub(crate) fn build(valid: &Valid, settings: &Settings) -> Job {
    let labels = command::labels("millrace-delete-durable", &valid.name);
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

fn pod(valid: &Valid, settings: &Settings) -> PodSpec {
    let pod = command::pod(valid, settings, ["delete-durable".to_owned()]);
    PodSpec { restart_policy: Some("Never".to_owned()), ..pod }
}
