//! The Job that carries a `DeadLetterReplay` out.
//!
//! Its container is started again in the same pod when it dies, so that the journal, which is on a volume of the pod, makes
//! each letter count once. The counts are its termination message.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{EmptyDirVolumeSource, PodSpec, PodTemplateSpec, Volume, VolumeMount},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use millrace_operator_api::{DeadLetterReplaySpec, DryRun, ReplayTarget};

use crate::{
    build::{Settings, command},
    replay::validate::Valid,
};

/// The name that its Job and pods have for `app.kubernetes.io/name`.
pub(crate) const NAME: &str = "millrace-replay";

const JOURNAL: &str = "journal";
const JOURNAL_DIRECTORY: &str = "/var/lib/millrace-replay";

/// Two lines of some two hundred bytes for each letter, of at most a million.
const JOURNAL_SIZE: &str = "512Mi";

/// Where the kubelet reads the termination message.
const REPORT: &str = "/dev/termination-log";

/// Starts beyond those that an event gets that kills its process.
const RESTARTS_MAX: i32 = 6;

/// The name of the Job of a replay.
pub(crate) fn job_name(replay: &str) -> String {
    format!("{replay}-replay")
}

pub(crate) fn build(valid: &Valid, settings: &Settings) -> Job {
    let labels = command::labels(NAME, &valid.name);
    let attempts = i32::try_from(valid.consumer.config.delivery.max_attempts).unwrap_or(i32::MAX);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(&valid.name)),
            namespace: Some(valid.consumer.namespace.clone()),
            labels: Some(labels.clone()),
            owner_references: valid.owner.clone().map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            // An event that kills its process is given up after so many starts, and the replay goes on without it.
            backoff_limit: Some(attempts.saturating_add(RESTARTS_MAX)),
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
    let mut pod = command::pod(&valid.consumer, settings, arguments(&valid.spec, valid.created));
    pod.restart_policy = Some("OnFailure".to_owned());
    for container in &mut pod.containers {
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: JOURNAL.to_owned(),
            mount_path: JOURNAL_DIRECTORY.to_owned(),
            ..VolumeMount::default()
        });
    }
    pod.volumes.get_or_insert_default().push(Volume {
        name: JOURNAL.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity(JOURNAL_SIZE.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    });
    pod
}

/// Each with its value in one piece, so that no value can be taken for a flag.
fn arguments(spec: &DeadLetterReplaySpec, created: Timestamp) -> Vec<String> {
    let target = match spec.target {
        ReplayTarget::Handler => "handler",
        ReplayTarget::Source => "source",
    };
    let filter = &spec.filter;
    // The API server cuts the time of creation to its second.
    let created = created.saturating_add(SignedDuration::from_secs(1)).unwrap_or(created);
    let until = filter.to_time.as_ref().map_or(created, |time| time.0.min(created));
    let mut arguments = vec![
        "redrive".to_owned(),
        format!("--to={target}"),
        format!("--until={until}"),
        format!("--max-messages={}", spec.max_messages),
        format!("--per-second={}", spec.messages_per_second),
        format!("--max-replays={}", spec.max_replays_per_message),
        format!("--report={REPORT}"),
        "--serve".to_owned(),
    ];
    arguments.extend(filter.from_time.iter().map(|time| format!("--from={}", time.0)));
    arguments.extend(filter.reasons.iter().map(|reason| format!("--reason={}", reason.as_str())));
    arguments.extend(filter.subjects.iter().map(|subject| format!("--subject={subject}")));
    arguments.extend(filter.ids.iter().map(|id| format!("--event-id={id}")));
    arguments.push(match spec.dry_run {
        DryRun::None => format!("--journal={JOURNAL_DIRECTORY}/journal"),
        DryRun::All => "--dry-run".to_owned(),
    });
    arguments
}
