//! Watches, and one reconcile as a straight line.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        Controller,
        controller::{self, Action},
        watcher,
    },
};
use millrace_config::{RunState, status::StatusReport};
use millrace_operator_api::{EventConsumer, EventConsumerStatus, ScalingMode};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::{
    apply::apply,
    build::{Settings, build},
    context::{Context, FIELD_MANAGER, answered},
    error::Error,
    fetch::{self, Children},
    finalize::{finalize, keep_finalizer},
    lag,
    scaling::{Decision, Observed, decide},
    serve,
    status::{Seen, status},
    telemetry::Metrics,
    transitions,
    validate::{Valid, validate},
};

/// A watch that says nothing for this long is made anew: it may have died without a word.
const WATCH_TIMEOUT_SECONDS: u32 = 60;

/// Reconciles at once. Enough for thousands of objects, and few enough to be kind to the API server.
const CONCURRENCY: u16 = 8;

/// The time that one reconcile may take.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(60);

/// How soon pods are asked again while a consumer is not ready, and when it is.
const UNSETTLED_INTERVAL: Duration = Duration::from_secs(3);
const SETTLED_INTERVAL: Duration = Duration::from_secs(10);

/// The longest pause after failures in a row.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Runs the operator until SIGTERM.
pub async fn run(settings: Settings, namespace: Option<String>, listen: SocketAddr) -> Result<(), Error> {
    let listener = serve::bind(listen).await?;
    let client = Client::try_default()
        .await
        .map_err(|source| Error::Api { operation: "connect to the API server", source: Box::new(source) })?;
    let metrics = Metrics::default();
    let mut terminate = signal(SignalKind::terminate())?;
    info!(version = env!("CARGO_PKG_VERSION"), images = ?settings.images, "starting");
    let alive = watch_for_life(scoped(&client, namespace.as_deref()), metrics.clone());
    let context = Context::new(client, settings, metrics.clone());
    let stop = async move {
        terminate.recv().await;
        info!("told to stop");
    };
    tokio::select! {
        () = reconcile_all(context, namespace, stop) => Ok(()),
        () = alive => Ok(()),
        served = serve::serve(listener, metrics) => served.map_err(Error::from),
    }
}

/// Reconciles every object, in `namespace` or everywhere, until `stop` is ready and what is at work has ended.
pub async fn reconcile_all(
    context: Context,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let (client, namespace) = (context.client.clone(), namespace.as_deref());
    let api: Api<DeserializeGuard<EventConsumer>> = scoped(&client, namespace);
    let config = watcher::Config::default().timeout(WATCH_TIMEOUT_SECONDS);
    Controller::new(api, config.clone())
        .owns(scoped::<ServiceAccount>(&client, namespace), config.clone())
        .owns(scoped::<ConfigMap>(&client, namespace), config.clone())
        .owns(scoped::<PodDisruptionBudget>(&client, namespace), config.clone())
        .owns(scoped::<Deployment>(&client, namespace), config)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(stop)
        .run(reconcile, error_policy, Arc::new(context))
        .for_each(|result| async move {
            if let Err(error) = result {
                warn!(%error, "controller");
            }
        })
        .await;
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Asks the API server for next to nothing, now and then, so that silence can be told from quiet.
async fn watch_for_life(api: Api<DeserializeGuard<EventConsumer>>, metrics: Metrics) {
    let mut ticks = tokio::time::interval(Duration::from_secs(30));
    loop {
        ticks.tick().await;
        let one = kube::api::ListParams::default().limit(1);
        if answered("list one EventConsumer", api.list_metadata(&one)).await.is_ok() {
            metrics.alive();
        }
    }
}

async fn reconcile(object: Arc<DeserializeGuard<EventConsumer>>, context: Arc<Context>) -> Result<Action, Error> {
    let started = tokio::time::Instant::now();
    let result = match tokio::time::timeout(RECONCILE_TIMEOUT, Box::pin(reconcile_guarded(&object, &context))).await {
        Ok(result) => result,
        Err(_) => Err(Error::TimedOut("reconcile")),
    };
    context.metrics.reconciled(result.as_ref().err().map(Error::category), started.elapsed());
    let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    if let (Ok(_), Some(uid)) = (&result, object.uid()) {
        failures.remove(&uid);
    }
    result
}

/// An object that cannot be read must not stop the others: it is told about in the log and left alone until it changes.
async fn reconcile_guarded(object: &DeserializeGuard<EventConsumer>, context: &Context) -> Result<Action, Error> {
    match &object.0 {
        Ok(object) if object.metadata.deletion_timestamp.is_some() => Box::pin(finalize(context, object)).await,
        Ok(object) => Box::pin(reconcile_one(object, context)).await,
        Err(invalid) => {
            error!(name = object.name_any(), namespace = object.namespace(), error = %invalid.error, "an EventConsumer cannot be read");
            Ok(Action::await_change())
        }
    }
}

async fn reconcile_one(object: &EventConsumer, context: &Context) -> Result<Action, Error> {
    let is_new = object.status.as_ref().and_then(|status| status.observed_generation) != object.metadata.generation;
    let first = if is_new { Some(write_status(context, object, &Seen::New).await?) } else { None };
    let object = &EventConsumer { status: first.or_else(|| object.status.clone()), ..object.clone() };
    match Box::pin(carry_out(object, context)).await {
        Ok(action) => Ok(action),
        Err(error) => {
            write_status(context, object, &Seen::Failed(&error)).await?;
            if error.is_transient() { Err(error) } else { Ok(Action::requeue(FAILURE_PAUSE_MAX)) }
        }
    }
}

/// validate → fetch → build → apply → status.
async fn carry_out(object: &EventConsumer, context: &Context) -> Result<Action, Error> {
    let mut valid: Valid = validate(object)?;
    keep_finalizer(context, object).await?;
    let children = Box::pin(fetch::children(context, &valid)).await?;
    let pods = fetch::pods(context, &valid.namespace, &valid.name).await?;
    let reports = context.probe.reports(&pods).await;
    let pods: Vec<_> = pods.into_iter().zip(reports).collect();
    let scaled = scale(object, context, &valid, &children, &pods);
    if let Some(decision) = scaled {
        valid.replicas = decision.replicas;
    }
    let desired = build(&valid, &context.settings)?;
    let deployment = apply(context, &valid, &desired, &children).await?;
    let seen = Seen::Applied { deployment: &deployment, pods: &pods, scaled: scaled.map(|decision| decision.reason) };
    let status = write_status(context, object, &seen).await?;
    let ready = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let settled = ready && valid.scaling.mode != ScalingMode::Lag;
    Ok(Action::requeue(if settled { SETTLED_INTERVAL } else { UNSETTLED_INTERVAL }))
}

/// How many pods there are to be by the lag; nothing where that is decided elsewhere.
fn scale(
    object: &EventConsumer,
    context: &Context,
    valid: &Valid,
    children: &Children,
    pods: &[(Pod, Option<StatusReport>)],
) -> Option<Decision> {
    if valid.scaling.mode != ScalingMode::Lag || valid.config.run_state == RunState::Stopped {
        return None;
    }
    let current = children.deployment.as_ref().and_then(|deployment| deployment.spec.replicas);
    let current = current.unwrap_or(valid.scaling.min_replicas);
    let (uid, now) = (object.uid().unwrap_or_default(), Instant::now());
    let mut memory = context.memory.lock().unwrap_or_else(PoisonError::into_inner);
    let (pace, enough_for) = memory.look(&uid, pods, now);
    // What is paused handles nothing, with however many pods.
    let working = valid.config.run_state == RunState::Running;
    let figures = lag::add_up(pods.iter().map(|(_, report)| report.as_ref())).filter(|_| working);
    let decision = decide(&valid.scaling, &Observed { current, figures, pace, enough_for });
    if decision.needs_all {
        memory.needed(&uid, now);
    }
    if decision.replicas != current {
        info!(namespace = valid.namespace, name = valid.name, from = current, to = decision.replicas, "scaled");
    }
    Some(decision)
}

/// Writes the status if it differs from the one that is there, and an Event for each condition that turned.
async fn write_status(
    context: &Context,
    object: &EventConsumer,
    seen: &Seen<'_>,
) -> Result<EventConsumerStatus, Error> {
    let new = status(object, seen, Timestamp::now());
    if object.status.as_ref() == Some(&new) {
        return Ok(new);
    }
    let api: Api<EventConsumer> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let patch =
        json!({"apiVersion": EventConsumer::api_version(&()), "kind": EventConsumer::kind(&()), "status": &new});
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    answered("write the status", api.patch_status(&object.name_any(), &parameters, &Patch::Apply(&patch))).await?;
    tell_transitions(context, object, &new).await;
    Ok(new)
}

/// Writes an Event for each condition that turned.
async fn tell_transitions(context: &Context, object: &EventConsumer, new: &EventConsumerStatus) {
    for event in transitions::events(object.status.as_ref(), new) {
        if let Err(error) = answered("write an Event", context.recorder.publish(&event, &object.object_ref(&()))).await
        {
            warn!(%error, "an Event is lost");
        }
    }
}

/// Failures of one object in a row make its pauses longer, and nobody else's.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the controller asks for")]
fn error_policy(object: Arc<DeserializeGuard<EventConsumer>>, error: &Error, context: Arc<Context>) -> Action {
    let mut all = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let failures = all.entry(object.uid().unwrap_or_default()).or_default();
    *failures = failures.saturating_add(1);
    let pause = Duration::from_secs(1).saturating_mul(2_u32.saturating_pow((*failures).min(16))).min(FAILURE_PAUSE_MAX);
    let jitter = pause.mul_f64(fastrand::f64() / 5.0);
    warn!(name = object.name_any(), namespace = object.namespace(), %error, failures = *failures, "reconcile failed");
    Action::requeue(pause.saturating_add(jitter))
}
