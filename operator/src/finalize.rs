//! `deletionPolicy: Delete`: an object stays until its durable is deleted, for a bounded time.
//!
//! Flow: the pods go, because a runtime makes its durable again; a Job deletes it; the finalizer goes. Whatever of that does
//! not work in time is told by an Event, and the object goes all the same. Each visit looks at everything anew, so it is safe to
//! stop anywhere.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType},
};
use millrace_config::{DeletionPolicy, RunState};
use millrace_operator_api::EventConsumer;
use serde_json::json;
use tracing::{info, warn};

use crate::{
    apply,
    build::{build, delete_durable},
    context::{Context, FIELD_MANAGER, answered},
    error::Error,
    fetch,
    owner::{Owner, owner_of},
    validate::{Valid, validate},
};

/// The finalizer of an object whose durable is to be deleted with it.
pub const FINALIZER: &str = "millrace.dev/durable";

/// What the deletion may take beyond the drain of the pods.
const TIME_LIMIT: SignedDuration = SignedDuration::from_secs(60);

/// How soon it is looked again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Adds the finalizer where it is to be, and takes it off where not.
pub async fn keep_finalizer(context: &Context, object: &EventConsumer) -> Result<(), Error> {
    let wanted = deletes_durable(object);
    if wanted != has_finalizer(object) {
        // Where the object has changed meanwhile, that change brings the next visit.
        set_finalizer(context, object, wanted).await?;
    }
    Ok(())
}

/// Takes an object that is being deleted one step further, and says when to look again.
pub async fn finalize(context: &Context, object: &EventConsumer) -> Result<Option<Duration>, Error> {
    if !has_finalizer(object) {
        return Ok(None);
    }
    if !deletes_durable(object) {
        // The policy was changed back, the last time perhaps after the deletion had begun.
        let gone = set_finalizer(context, object, false).await?;
        return Ok((!gone).then_some(LOOK_INTERVAL));
    }
    let ends = ends(object);
    let step = match validate(object) {
        Ok(_) if Timestamp::now() >= ends => Err("it did not work in time".to_owned()),
        Ok(valid) => match Box::pin(delete(context, object, &valid)).await {
            Ok(step) => Ok(step),
            // A namespace that is being deleted takes no new Job.
            Err(error) if error.to_string().contains("being terminated") => Err(error.to_string()),
            Err(error) => return Err(error),
        },
        Err(error) => Err(error.to_string()),
    };
    match step {
        Ok(Step::Wait) => return Ok(Some(LOOK_INTERVAL)),
        Ok(Step::Deleted) => info!(namespace = object.namespace(), name = object.name_any(), "the durable is deleted"),
        Ok(Step::Failed) => tell_left(context, object, "its Job has failed").await,
        Err(why) => tell_left(context, object, &why).await,
    }
    let gone = set_finalizer(context, object, false).await?;
    Ok((!gone).then_some(LOOK_INTERVAL))
}

/// How far it is.
enum Step {
    Wait,
    Deleted,
    Failed,
}

async fn delete(context: &Context, object: &EventConsumer, valid: &Valid) -> Result<Step, Error> {
    // What follows cannot be undone, so it relies on no watch: one that is behind may tell of an object that is gone, and
    // whose durable another one of that name has by now.
    apply::check_current(context, valid).await?;
    let mut stopped = object.clone();
    stopped.spec.run_state = RunState::Stopped;
    let children = fetch::children(context, valid)?;
    if children.deployment.is_some() {
        let desired = build(&validate(&stopped)?, &context.settings)?;
        apply::deployment(context, valid, &desired, &children).await?;
    }
    if fetch::has_pods(context, valid).await? {
        return Ok(Step::Wait);
    }
    // The garbage collector may have taken what the pod of the Job needs, where the deletion is a foreground one.
    apply::what_pods_need(context, valid, &build(valid, &context.settings)?, &children).await?;
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &valid.namespace);
    let Some(job) = answered("get the Job", jobs.get_opt(&delete_durable::name(valid))).await? else {
        apply::job(context, valid, &delete_durable::build(valid, &context.settings)).await?;
        return Ok(Step::Wait);
    };
    match owner_of(&job, object) {
        Owner::This => {}
        Owner::Earlier => return Ok(Step::Wait),
        Owner::SomebodyElse => return Err(Error::NotOurs { kind: "Job", name: job.name_any() }),
    }
    let has = |type_: &str| {
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    Ok(if has("Complete") {
        Step::Deleted
    } else if has("Failed") {
        Step::Failed
    } else {
        Step::Wait
    })
}

/// Whether its durable is to be deleted with it, by what it says now.
fn deletes_durable(object: &EventConsumer) -> bool {
    let jet_stream = object.spec.broker.jet_stream.as_ref();
    jet_stream.is_some_and(|jet_stream| jet_stream.deletion_policy == DeletionPolicy::Delete)
}

fn has_finalizer(object: &EventConsumer) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// When it is given up.
fn ends(object: &EventConsumer) -> Timestamp {
    let begun = object.metadata.deletion_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    let limit = TIME_LIMIT.saturating_add(SignedDuration::from_secs(object.spec.drain_timeout_seconds.into()));
    begun.saturating_add(limit).unwrap_or(Timestamp::MAX)
}

/// The version in the patch makes sure that nobody else's finalizer is lost, as all of them are written: `false` when the
/// object is another one by now.
async fn set_finalizer(context: &Context, object: &EventConsumer, wanted: bool) -> Result<bool, Error> {
    let others = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned();
    let all: Vec<String> = others.chain(wanted.then(|| FINALIZER.to_owned())).collect();
    let patch = json!({"metadata": {"finalizers": all, "resourceVersion": object.resource_version()}});
    let api: Api<EventConsumer> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(patch);
    match answered("set the finalizer", api.patch_metadata(&object.name_any(), &parameters, &patch)).await {
        Ok(_) => Ok(true),
        Err(error) if error.category() == "conflict" => Ok(false),
        Err(error) => Err(error),
    }
}

async fn tell_left(context: &Context, object: &EventConsumer, why: &str) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let durable = object.spec.queue_group.clone().unwrap_or_else(|| format!("{namespace}-{name}"));
    warn!(namespace, name, durable, why, "the durable is left at the broker");
    let note = format!(
        "the durable {durable:?} is left at the broker: {why}; delete it by hand, for example with `nats consumer rm`"
    );
    let event = Event {
        type_: EventType::Warning,
        reason: "DurableLeft".to_owned(),
        note: Some(note.chars().take(256).collect()),
        action: "Delete".to_owned(),
        secondary: None,
    };
    if let Err(error) = answered("write an Event", context.recorder.publish(&event, &object.object_ref(&()))).await {
        warn!(%error, "an Event is lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_a_minute_after_the_pods_must_have_drained() {
        let object: EventConsumer = serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "EventConsumer",
            "metadata": {"name": "orders", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"broker": {}, "subjects": [], "handler": {}, "drainTimeoutSeconds": 30},
        }))
        .unwrap();

        assert_eq!(ends(&object), "2026-01-01T00:01:30Z".parse().unwrap());
    }
}
