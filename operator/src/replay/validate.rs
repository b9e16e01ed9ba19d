//! Whether a replay can be carried out. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use millrace_config::Problem;
use millrace_operator_api::{DeadLetterReplay, DeadLetterReplaySpec, DryRun, EventConsumer, ReplayTarget};

use crate::{
    error::Error,
    validate::{self, NAME_MAX},
};

/// A replay that can be carried out.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Its name.
    pub name: String,
    /// What its Job is owned by; `None` for one that is not on a cluster.
    pub owner: Option<OwnerReference>,
    /// When it was created. Letters of what fails later are for another replay.
    pub created: Timestamp,
    /// What is asked for.
    pub spec: DeadLetterReplaySpec,
    /// The consumer whose dead letters are put back.
    pub consumer: validate::Valid,
}

/// Checks every rule, those that the API server has checked too: it may have an older CRD.
pub fn validate(replay: &DeadLetterReplay, consumer: &EventConsumer, now: Timestamp) -> Result<Valid, Error> {
    let consumer = validate::validate(consumer)?;
    let (name, spec) = (replay.name_any(), &replay.spec);
    let mut problems = Vec::new();
    if name.is_empty() || name.len() > NAME_MAX || name.contains('.') {
        problems.push(Problem::new("metadata.name", format!("use a DNS label of at most {NAME_MAX} characters")));
    }
    for (field, value, most) in [
        ("maxMessages", spec.max_messages, 1_000_000),
        ("messagesPerSecond", spec.messages_per_second, 1_000_000),
        ("maxReplaysPerMessage", spec.max_replays_per_message, 1000),
    ] {
        if !(1..=most).contains(&value) {
            problems.push(Problem::new(field, format!("{value} is out of range: use 1 to {most}")));
        }
    }
    let filter = &spec.filter;
    if let (Some(from), Some(to)) = (&filter.from_time, &filter.to_time)
        && from.0 >= to.0
    {
        problems.push(Problem::new("filter.fromTime", "must be before filter.toTime"));
    }
    let config = &consumer.config;
    if !config.broker.keeps_events() || config.delivery.dead_letter.is_none() {
        let message =
            "the consumer has no dead letters: it needs broker.jetStream or broker.kafka, and delivery.deadLetter";
        problems.push(Problem::new("consumerRef", message));
    }
    if config.has_own_volume() && spec.target == ReplayTarget::Handler && spec.dry_run == DryRun::None {
        let message = "use Source: with idempotency.store.embedded the consumer has the file of the claims open";
        problems.push(Problem::new("target", message));
    }
    if !problems.is_empty() {
        return Err(Error::Invalid(problems));
    }
    Ok(Valid {
        name,
        owner: replay.controller_owner_ref(&()).filter(|owner| !owner.uid.is_empty()),
        created: replay.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0),
        spec: spec.clone(),
        consumer,
    })
}
