//! Watches of `DeadLetterReplay`, and one visit as a straight line.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{ListParams, Patch, PostParams},
    core::DeserializeGuard,
    runtime::{
        Controller,
        controller::{self, Action},
        watcher,
    },
};
use millrace_config::status::StatusReport;
use millrace_operator_api::{DeadLetterReplay, DeadLetterReplayStatus, EventConsumer};
use serde_json::json;
use tracing::{error, info, warn};

use crate::{
    apply::{HASH_ANNOTATION, content},
    build::{self, replay::job_name},
    caches::scoped,
    context::{Context, FIELD_MANAGER, answered, applying},
    error::Error,
    owner::{Owner, owner_of},
    replay::{
        status::{Seen, event, has_ended, status},
        validate::{Valid, validate},
    },
};

/// Replays looked at at once. Each is mostly its Job's work.
const CONCURRENCY: u16 = 4;

/// How soon a replay is looked at again while its Job works, while it waits for something that comes by itself, and while
/// somebody must change something.
const WORKING_INTERVAL: Duration = Duration::from_secs(3);
const WAITING_INTERVAL: Duration = Duration::from_secs(1);
const BLOCKED_INTERVAL: Duration = Duration::from_secs(10);

/// How soon it is tried again after a failure. Replays are few, and each is its own, so the pause need not grow.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);

/// How soon a replay is looked at again that fails until somebody changes something else.
const NOT_OURS_INTERVAL: Duration = Duration::from_secs(300);

/// The time that one visit may take.
const VISIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A watch that says nothing for this long is made anew: it may have died without a word.
const WATCH_TIMEOUT_SECONDS: u32 = 60;

/// Most pods that are looked at: more than a Job starts before it gives up.
const PODS_MAX: u32 = 128;

/// Looks after every replay, in `namespace` or everywhere, until `stop` is ready and what is at work has ended.
pub async fn reconcile_all(
    context: Arc<Context>,
    namespace: Option<&str>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let client = context.client.clone();
    let replays: Api<DeserializeGuard<DeadLetterReplay>> = scoped(&client, namespace);
    let config = watcher::Config::default().timeout(WATCH_TIMEOUT_SECONDS);
    let ours = config.clone().labels(&format!("app.kubernetes.io/name={}", build::replay::NAME));
    Controller::new(replays, config)
        .owns(scoped::<Job>(&client, namespace), ours)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(stop)
        .run(reconcile, error_policy, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                warn!(%error, "controller of replays");
            }
        })
        .await;
}

async fn reconcile(object: Arc<DeserializeGuard<DeadLetterReplay>>, context: Arc<Context>) -> Result<Action, Error> {
    let started = tokio::time::Instant::now();
    let limited = tokio::time::timeout(VISIT_TIMEOUT, Box::pin(reconcile_guarded(&object, &context))).await;
    let result = limited.unwrap_or(Err(Error::TimedOut("reconcile")));
    context.metrics.reconciled(result.as_ref().err().map(Error::category), started.elapsed());
    result
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that the controller asks for")]
fn error_policy(object: Arc<DeserializeGuard<DeadLetterReplay>>, error: &Error, _: Arc<Context>) -> Action {
    warn!(name = object.name_any(), namespace = object.namespace(), %error, "a replay is tried again");
    Action::requeue(FAILURE_PAUSE)
}

/// An object that cannot be read must not stop the others: it is told about in the log and left alone until it changes.
async fn reconcile_guarded(object: &DeserializeGuard<DeadLetterReplay>, context: &Context) -> Result<Action, Error> {
    match &object.0 {
        // Its Job goes with it, by its owner reference.
        Ok(replay) if replay.metadata.deletion_timestamp.is_some() => Ok(Action::await_change()),
        Ok(replay) if has_ended(replay) => Ok(Action::await_change()),
        Ok(replay) => Box::pin(reconcile_one(replay, context)).await,
        Err(invalid) => {
            error!(name = object.name_any(), namespace = object.namespace(), error = %invalid.error, "a DeadLetterReplay cannot be read");
            Ok(Action::await_change())
        }
    }
}

async fn reconcile_one(replay: &DeadLetterReplay, context: &Context) -> Result<Action, Error> {
    let is_new = replay.status.as_ref().and_then(|status| status.observed_generation) != replay.metadata.generation;
    let first = if is_new { Some(write_status(context, replay, &Seen::New).await?) } else { None };
    let replay = &DeadLetterReplay { status: first.or_else(|| replay.status.clone()), ..replay.clone() };
    match Box::pin(carry_out(replay, context)).await {
        Ok(action) => Ok(action),
        Err(error) => {
            write_status(context, replay, &Seen::Failed(&error)).await?;
            if error.is_transient() { Err(error) } else { Ok(Action::requeue(NOT_OURS_INTERVAL)) }
        }
    }
}

/// Its Job is made, or followed.
async fn carry_out(replay: &DeadLetterReplay, context: &Context) -> Result<Action, Error> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &replay.namespace().unwrap_or_default());
    let name = job_name(&replay.name_any());
    let Some(job) = answered("get the Job", jobs.get_opt(&name)).await? else {
        return Box::pin(start(replay, context, &jobs)).await;
    };
    match owner_of(&job, replay) {
        Owner::This => follow(replay, context, &job).await,
        Owner::Earlier => {
            let message = format!("the Job {name:?} of an earlier DeadLetterReplay of this name is being deleted");
            wait(replay, context, Seen::NotStarted { is_stalled: false, reason: "EarlierJob", message }).await
        }
        Owner::SomebodyElse => Err(Error::NotOurs { kind: "Job", name }),
    }
}

/// Makes the Job, where everything is there for it.
async fn start(replay: &DeadLetterReplay, context: &Context, jobs: &Api<Job>) -> Result<Action, Error> {
    // What is known of it may be old, and it must not be carried out twice.
    let replays: Api<DeadLetterReplay> =
        Api::namespaced(context.client.clone(), &replay.namespace().unwrap_or_default());
    let fresh = answered("get the DeadLetterReplay", replays.get_opt(&replay.name_any())).await?;
    if !fresh.is_some_and(|fresh| fresh.metadata.uid == replay.metadata.uid && !has_ended(&fresh)) {
        return Ok(Action::await_change());
    }
    let valid = match check(replay, context).await? {
        Ok(valid) => valid,
        Err(seen) => return wait(replay, context, seen).await,
    };
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let job = build::replay::build(&valid, &context.settings);
    match answered("create the Job", jobs.create(&parameters, &job)).await {
        Ok(job) => {
            info!(namespace = job.namespace(), name = valid.name, "a replay is started");
            follow(replay, context, &job).await
        }
        // Somebody was faster. The next visit sees who.
        Err(error) if error.category() == "conflict" => Ok(Action::requeue(WAITING_INTERVAL)),
        Err(error) => Err(error),
    }
}

/// What the Job is made of, or what keeps it from being made.
async fn check(replay: &DeadLetterReplay, context: &Context) -> Result<Result<Valid, Seen<'static>>, Error> {
    let namespace = replay.namespace().unwrap_or_default();
    let name = &replay.spec.consumer_ref.name;
    let consumers: Api<EventConsumer> = Api::namespaced(context.client.clone(), &namespace);
    let consumer = answered("get the EventConsumer", consumers.get_opt(name)).await?;
    let Some(consumer) = consumer.filter(|consumer| consumer.metadata.deletion_timestamp.is_none()) else {
        let message = format!(
            "there is no EventConsumer {name:?} in this namespace: create it, or create another DeadLetterReplay"
        );
        return Ok(Err(Seen::NotStarted { is_stalled: true, reason: "ConsumerNotFound", message }));
    };
    let valid = match validate(replay, &consumer, Timestamp::now()) {
        Ok(valid) => valid,
        Err(error @ Error::Invalid(_)) => {
            let message = error.to_string();
            return Ok(Err(Seen::NotStarted { is_stalled: true, reason: "NotPossible", message }));
        }
        Err(error) => return Err(error),
    };
    // The pod mounts the configuration of the consumer: it is to be that of its present spec.
    let desired = build::build(&valid.consumer, &context.settings)?.config_map;
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &namespace);
    let map = answered("get the ConfigMap", maps.get_metadata_opt(name)).await?;
    let (_, hash) = content(&desired)?;
    let is_current = map.is_some_and(|map| map.annotations().get(HASH_ANNOTATION) == Some(&hash));
    if is_current {
        return Ok(Ok(valid));
    }
    let message = "the configuration of the consumer is about to change: the Job starts when it has".to_owned();
    Ok(Err(Seen::NotStarted { is_stalled: false, reason: "ConsumerChanging", message }))
}

/// Tells what keeps it from being started, and looks again soon.
async fn wait(replay: &DeadLetterReplay, context: &Context, seen: Seen<'_>) -> Result<Action, Error> {
    write_status(context, replay, &seen).await?;
    let is_stalled = matches!(seen, Seen::NotStarted { is_stalled: true, .. });
    Ok(Action::requeue(if is_stalled { BLOCKED_INTERVAL } else { WAITING_INTERVAL }))
}

/// Tells how far the Job is.
async fn follow(replay: &DeadLetterReplay, context: &Context, job: &Job) -> Result<Action, Error> {
    let pods = pods(context, job).await?;
    let status = write_status(context, replay, &Seen::Started(job, &pods)).await?;
    Ok(if status.completion_time.is_some() { Action::await_change() } else { Action::requeue(WORKING_INTERVAL) })
}

/// The pods of a Job, each with what it says of itself while it runs.
async fn pods(context: &Context, job: &Job) -> Result<Vec<(Pod, Option<StatusReport>)>, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let label = format!("batch.kubernetes.io/controller-uid={}", job.uid().unwrap_or_default());
    let selected = ListParams::default().labels(&label).limit(PODS_MAX);
    let (running, others): (Vec<_>, Vec<_>) = answered("list the pods", api.list(&selected))
        .await?
        .items
        .into_iter()
        .partition(|pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")));
    let reports = context.probe.reports(&running).await;
    Ok(running.into_iter().zip(reports).chain(others.into_iter().map(|pod| (pod, None))).collect())
}

/// Writes the status if it differs from the one that is there, and an Event where it turned.
async fn write_status(
    context: &Context,
    replay: &DeadLetterReplay,
    seen: &Seen<'_>,
) -> Result<DeadLetterReplayStatus, Error> {
    let new = status(replay, seen, Timestamp::now());
    if replay.status.as_ref() == Some(&new) {
        return Ok(new);
    }
    let api: Api<DeadLetterReplay> = Api::namespaced(context.client.clone(), &replay.namespace().unwrap_or_default());
    // Never that of an object of the same name that came after this one.
    let patch = json!({
        "apiVersion": DeadLetterReplay::api_version(&()), "kind": DeadLetterReplay::kind(&()),
        "metadata": {"uid": replay.uid()}, "status": &new,
    });
    answered("write the status", api.patch_status(&replay.name_any(), &applying(), &Patch::Apply(&patch))).await?;
    if let Some(event) = event(replay.status.as_ref(), &new)
        && let Err(error) = answered("write an Event", context.recorder.publish(&event, &replay.object_ref(&()))).await
    {
        warn!(%error, "an Event is lost");
    }
    Ok(new)
}
