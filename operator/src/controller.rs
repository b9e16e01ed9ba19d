//! The operator as a whole, and one look at a consumer as a straight line.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _,
    future::{Shared, join_all},
};
use kube::ResourceExt as _;
use millrace_config::RunState;
use millrace_operator_api::{EventConsumer, OnUnknownLag, ScalingMode};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    apply::apply,
    build::{Settings, build},
    caches::watch_all,
    context::Context,
    error::Error,
    fetch::{self, Children, Pods},
    finalize::{finalize, keep_finalizer},
    key::Key,
    known::{Child, Consumer, Looked},
    lag::{self, Figures},
    lease::{self, Election},
    poll,
    queue::Lane,
    replay,
    scaling::{Decision, Observed, Told, decide},
    serve,
    status::Seen,
    telemetry::Metrics,
    tell::{begin, tell_unreadable, write_status},
    validate::{Valid, validate},
    wake::{ASLEEP_INTERVAL, Hindrance, Wake, WakeSettings},
    work::work,
};

/// Looks at once. Each waits for the API server most of its time, which serves many more; and each takes little memory.
const CONCURRENCY: usize = 16;

/// The time that one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// How soon a consumer is looked at of which nobody tells anything. It writes nothing; what it finds is a defect of ours.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// How soon a child is looked for again whose name somebody else has.
const NAME_TAKEN_INTERVAL: Duration = Duration::from_secs(300);

/// Pauses after failures in a row: the first, the longest, and the longest where a right or a quota is missing, which
/// somebody is about to mend.
const FAILURE_PAUSE_MIN: Duration = Duration::from_secs(1);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(300);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Runs the operator, in `namespaces` or, without any, everywhere, until SIGTERM or until it has lost its lease.
pub async fn run(
    settings: Settings,
    wake: WakeSettings,
    namespaces: Vec<String>,
    listen: SocketAddr,
    election: &Election,
) -> Result<(), Error> {
    let listener = serve::bind(listen).await?;
    let (client, candidate) = lease::connect(election).await?;
    let metrics = Metrics::default();
    let mut terminate = signal(SignalKind::terminate())?;
    info!(version = env!("CARGO_PKG_VERSION"), images = ?settings.images, "starting");
    let scopes = if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };
    let stop = async move {
        terminate.recv().await;
        info!("told to stop");
    }
    .shared();
    let work = join_all(scopes.into_iter().map(|scope| {
        let context =
            Context::new(client.clone(), settings.clone(), metrics.clone()).with_wake(Wake::new(wake.clone()));
        reconcile_all(context, scope, stop.clone())
    }));
    tokio::select! {
        led = lease::lead(candidate, stop.clone(), work) => led,
        served = serve::serve(listener, metrics) => served.map_err(Error::from),
    }
}

/// Reconciles every consumer, in `namespace` or everywhere, until `stop` is ready and what is at work has ended.
pub async fn reconcile_all(
    context: Context,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let context = Arc::new(context);
    let stop = stop.boxed().shared();
    let mut watches = JoinSet::new();
    watch_all(&context, namespace.as_deref(), &mut watches);
    if !all_listed(&context, stop.clone()).await {
        return;
    }
    info!(consumers = context.caches.consumers.len(), "everything is listed");
    let looks = |key| look(Arc::clone(&context), key);
    let polls = |key| poll::poll(Arc::clone(&context), key);
    tokio::join!(
        work(&context.queue, CONCURRENCY, Some(&context.gate), looks, stop.clone()),
        work(&context.polls, poll::CONCURRENCY, None, polls, stop.clone()),
        replay::controller::reconcile_all(Arc::clone(&context), namespace.as_deref(), stop),
    );
}

/// Waits until everything has been listed once: what is not known yet must not be taken for not there. `false` when it is to
/// stop before that.
async fn all_listed(context: &Context, stop: Shared<impl Future<Output = ()>>) -> bool {
    loop {
        let sighted = context.sighted.notified();
        if context.caches.are_ready() {
            return true;
        }
        tokio::select! {
            () = sighted => {}
            () = stop.clone() => return false,
        }
    }
}

/// One look at one consumer, and when the next is due.
async fn look(context: Arc<Context>, key: Key) {
    let started = Instant::now();
    let Some(known) = context.caches.consumers.get(&key) else { return forget(&context, &key) };
    let limited = tokio::time::timeout(LOOK_TIMEOUT, Box::pin(look_at(&context, &key, &known))).await;
    let result = limited.unwrap_or(Err(Error::TimedOut("reconcile")));
    context.metrics.reconciled(result.as_ref().err().map(Error::category), started.elapsed());
    let after = match result {
        Ok(after) => {
            context.gate.answered();
            context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            after.unwrap_or_else(|| jittered(LOOK_INTERVAL))
        }
        Err(error) if error.is_silence() => {
            context.gate.silent();
            warn!(%key, %error, "the API server does not answer");
            // It is looked at as soon as the gate opens: the object has done nothing.
            FAILURE_PAUSE_MIN
        }
        Err(error) => pause(&context, &key, &error),
    };
    context.queue.push_at(&key, tokio::time::Instant::now() + after);
}

/// Failures of one consumer in a row make its pauses longer, and nobody else's.
fn pause(context: &Context, key: &Key, error: &Error) -> Duration {
    let mut all = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let failures = all.entry(key.clone()).or_default();
    *failures = failures.saturating_add(1);
    warn!(%key, %error, failures = *failures, "reconcile failed");
    let longest = if error.category() == "forbidden" { REFUSED_PAUSE_MAX } else { FAILURE_PAUSE_MAX };
    jittered(FAILURE_PAUSE_MIN.saturating_mul(2_u32.saturating_pow((*failures).min(16))).min(longest))
}

fn jittered(duration: Duration) -> Duration {
    duration.saturating_add(duration.mul_f64(fastrand::f64() / 5.0))
}

fn forget(context: &Context, key: &Key) {
    context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    context.reports.forget(key);
    context.polls.forget(key);
}

/// A consumer that cannot be read must not stop the others, and is told so.
async fn look_at(context: &Context, key: &Key, known: &Consumer) -> Result<Option<Duration>, Error> {
    let object = match known.look()? {
        Looked::Readable(object) => object,
        Looked::Unreadable { why } => return tell_unreadable(context, key, &why).await.map(|()| None),
    };
    let done = if object.metadata.deletion_timestamp.is_some() {
        Box::pin(finalize(context, &object)).await
    } else {
        Box::pin(carry_out(context, key, &object)).await
    };
    tell_failure(context, &object, done).await
}

/// Says of a consumer why it could not be reconciled, and whether trying again can help.
async fn tell_failure(
    context: &Context,
    object: &EventConsumer,
    done: Result<Option<Duration>, Error>,
) -> Result<Option<Duration>, Error> {
    match done {
        Ok(after) => Ok(after),
        // Where the API server is silent there is nobody to write to, and of one that is gone nothing to write.
        Err(error) if error.is_silence() || matches!(error, Error::Outdated) => Err(error),
        Err(error) => {
            write_status(context, object, &Seen::Failed(&error)).await?;
            // How long a deletion may take is looked at again soon, whatever is in its way.
            if object.metadata.deletion_timestamp.is_some() {
                return Err(error);
            }
            match error {
                Error::NotOurs { .. } => Ok(Some(NAME_TAKEN_INTERVAL)),
                error if error.is_transient() => Err(error),
                _ => Ok(None),
            }
        }
    }
}

/// validate → begin → fetch → build → apply → status. Of a consumer that sleeps only the broker is looked at, most of the time.
async fn carry_out(context: &Context, key: &Key, object: &EventConsumer) -> Result<Option<Duration>, Error> {
    if context.wake.is_still_asleep(object).await {
        return Ok(Some(ASLEEP_INTERVAL));
    }
    let mut valid: Valid = validate(object)?;
    let begun = begin(context, object).await?;
    let object = begun.as_ref().unwrap_or(object);
    keep_finalizer(context, object).await?;
    let children = fetch::children(context, &valid)?;
    let pods = fetch::pods(context, key)?;
    let asked = ask_broker(object, context, &valid).await;
    let scaled = scale(object, context, &valid, &children, &pods, asked)?;
    if let Some(decision) = scaled {
        valid.replicas = decision.replicas;
    }
    let desired = build(&valid, &context.settings)?;
    let deployment = apply(context, &valid, &desired, &children, begun.is_some()).await?;
    let scaled = scaled.map(|decision| Told { reason: decision.reason, asked });
    let seen = Seen::Applied { deployment: &deployment, pods: &pods.pods, scaled };
    let status = write_status(context, object, &seen).await?;
    let ready = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    plan_poll(context, key, &pods, ready && valid.scaling.mode != ScalingMode::Lag);
    if ready && valid.replicas == 0 && asked == Some(Ok(0)) {
        context.wake.sleeps(object).await;
        return Ok(Some(ASLEEP_INTERVAL));
    }
    // Its pods may be none, or know less than the broker.
    Ok(asked.map(|_| poll::UNSETTLED_INTERVAL))
}

/// What waits at the broker, where the consumer may have no pods, which then cannot report it.
async fn ask_broker(object: &EventConsumer, context: &Context, valid: &Valid) -> Option<Result<u64, Hindrance>> {
    let scaling = &valid.scaling;
    let may_sleep = scaling.mode == ScalingMode::Lag && scaling.min_replicas == 0;
    if !may_sleep || valid.config.run_state != RunState::Running {
        return None;
    }
    Some(context.wake.ask(&context.client, object, valid).await)
}

/// When the pods are asked again; never where there is none to ask.
fn plan_poll(context: &Context, key: &Key, pods: &Pods, settled: bool) {
    let mut askable = pods.pods.iter().filter(|(pod, _)| poll::can_be_asked(pod)).peekable();
    if askable.peek().is_none() {
        context.polls.forget(key);
        context.reports.forget(key);
        return;
    }
    let interval = if settled { poll::SETTLED_INTERVAL } else { poll::UNSETTLED_INTERVAL };
    match pods.asked {
        None => context.polls.push(key, Lane::Front),
        Some(asked) => context.polls.push_at(key, asked + jittered(interval)),
    }
}

/// How many pods there are to be by the lag; nothing where that is decided elsewhere.
fn scale(
    object: &EventConsumer,
    context: &Context,
    valid: &Valid,
    children: &Children,
    pods: &Pods,
    asked: Option<Result<u64, Hindrance>>,
) -> Result<Option<Decision>, Error> {
    if valid.scaling.mode != ScalingMode::Lag || valid.config.run_state == RunState::Stopped {
        return Ok(None);
    }
    let working = valid.config.run_state == RunState::Running;
    let mut scaling = valid.scaling.clone();
    if !working {
        // What is paused handles nothing, with however many pods.
        scaling.on_unknown_lag = OnUnknownLag::Hold;
    }
    if scaling.min_replicas == 0 && asked != Some(Ok(0)) {
        // There are no pods only while the broker itself says that nothing waits.
        scaling.min_replicas = 1;
    }
    let deployment = children.deployment.as_ref().and_then(Child::deployment).transpose()?;
    let current = deployment.and_then(|deployment| deployment.spec.replicas).unwrap_or(scaling.min_replicas);
    let uid = object.uid().unwrap_or_default();
    let now = pods.asked.map_or_else(Instant::now, tokio::time::Instant::into_std);
    let pods = &pods.pods;
    let mut memory = context.memory.lock().unwrap_or_else(PoisonError::into_inner);
    let (pace, enough_for) = memory.look(&uid, pods, now);
    let waiting = asked.and_then(Result::ok).map(|pending| Figures { pending: Some(pending), ..Figures::default() });
    // A pod that does not run yet, or no more, has no share of what waits.
    let running = pods.iter().filter(|(pod, report)| report.is_some() || poll::can_be_asked(pod));
    let figures = lag::add_up(running.map(|(_, report)| report.as_ref())).or(waiting).filter(|_| working);
    let decision = decide(&scaling, &Observed { current, figures, pace, enough_for });
    if decision.needs_all {
        memory.needed(&uid, now);
    }
    if decision.replicas != current {
        info!(namespace = valid.namespace, name = valid.name, from = current, to = decision.replicas, "scaled");
    }
    Ok(Some(decision))
}
