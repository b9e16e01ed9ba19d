//! Step 5: what is said about an `EventConsumer`. Pure, and right for kstatus: `Ready` from the first visit on,
//! `Reconciling` while it is on its way, `Stalled` when somebody must change something.

use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{ResourceExt as _, api::DynamicObject};
use millrace_config::{
    Broker, RunState,
    status::{DeliveryGuarantee, Part, StatusProblem, StatusReport},
};
use millrace_operator_api::{EventConsumer, EventConsumerStatus, ScalingMode};
use serde_json::{Value, json};

use crate::{
    build::CONSUMER_LABEL,
    error::Error,
    lag::{self, Figures},
    scaling::{self, Told},
};

/// What was seen of an `EventConsumer`.
#[derive(Debug)]
pub enum Seen<'a> {
    /// Nothing has been done for it yet.
    New,
    /// Its children are as they are to be; this is what became of them.
    Applied {
        /// The Deployment, as it is since it was applied. Of one that has just been written the status is older than its
        /// generation, and counts for nothing.
        deployment: &'a Deployment,
        /// Its pods, each with its report, if it gave one.
        pods: &'a [(Pod, Option<StatusReport>)],
        /// Why it has as many pods as it has; nothing where the lag does not decide that.
        scaled: Option<scaling::Told>,
    },
    /// It could not be reconciled.
    Failed(&'a Error),
}

/// The three conditions that say how it stands in all.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Summary {
    ready: &'static str,
    reconciling: bool,
    stalled: bool,
    reason: String,
    message: String,
}

/// What a consumer waits for at first.
const BEING_MADE: &str = "the Deployment is being made";

/// The status that `object` is to have.
pub fn status(object: &EventConsumer, seen: &Seen<'_>, now: Timestamp) -> EventConsumerStatus {
    let generation = object.metadata.generation;
    let old = object.status.clone().unwrap_or_default();
    let summary = summarise(object, seen);
    let mut conditions = Conditions::new(&old.conditions, generation, now);
    conditions.set("Ready", summary.ready, &summary.reason, &summary.message);
    conditions.set("Reconciling", truth(summary.reconciling), &summary.reason, &summary.message);
    conditions.set("Stalled", truth(summary.stalled), &summary.reason, &summary.message);
    for (part, name) in [(Part::Broker, "BrokerReady"), (Part::Store, "StoreReady"), (Part::Handler, "HandlerReady")] {
        let (status, reason, message) = part_condition(part, seen);
        conditions.set(name, status, &reason, &message);
    }
    if object.spec.delivery.circuit_breaker.is_some() {
        let (open, reason, message) = match part_condition(Part::Circuit, seen) {
            ("True", ..) => ("False", "Closed".to_owned(), "no pod that answers reports an open circuit".to_owned()),
            ("False", reason, message) => ("True", reason, message),
            unknown => unknown,
        };
        conditions.set("CircuitOpen", open, &reason, &message);
    }
    let (degraded, reason, message) = degradation(seen);
    conditions.set("DurabilityDegraded", degraded, &reason, &message);
    if let Some((active, reason, message)) = scaling_active(object, seen) {
        conditions.set("ScalingActive", active, reason, &message);
    }
    let figures = figures(seen);
    if let Some((backlog, reason, message)) = backlog(object, seen, figures) {
        conditions.set("DeadLetterBacklog", backlog, reason, &message);
    }
    let (lag, dead_letters) = match (seen, figures) {
        (Seen::Applied { .. }, Some(figures)) => {
            Some(figures.told(now)).map_or((None, None), |(lag, dead)| (Some(lag), dead))
        }
        (Seen::Applied { .. }, None) => (None, None),
        (Seen::New | Seen::Failed(_), _) => (old.lag.clone(), old.dead_letters.clone()),
    };
    let deployment = match seen {
        Seen::Applied { deployment, .. } => deployment.status.clone(),
        Seen::New | Seen::Failed(_) => None,
    };
    let counts = deployment.map_or((old.replicas, old.ready_replicas), |status| {
        (status.replicas.unwrap_or_default(), status.ready_replicas.unwrap_or_default())
    });
    let new = EventConsumerStatus {
        observed_generation: generation,
        replicas: counts.0,
        ready_replicas: counts.1,
        selector: Some(format!("{CONSUMER_LABEL}={}", object.name_any())),
        broker: Some(broker(object).to_owned()),
        handler: Some(handler(object).to_owned()),
        delivery_guarantee: Some(guarantee(object)),
        lag,
        dead_letters,
        conditions: conditions.collected(),
    };
    hold_lag(&old, new)
}

/// The status of an object that this operator cannot read, for `why`.
pub fn unreadable(object: &DynamicObject, why: &str, now: Timestamp) -> Value {
    let old = object.data.pointer("/status/conditions").cloned().unwrap_or_default();
    let old: Vec<Condition> = serde_json::from_value(old).unwrap_or_default();
    let generation = object.metadata.generation;
    let mut conditions = Conditions { old: &old, generation, now, new: Vec::new() };
    let message = format!("this operator cannot read it, and leaves its pods as they are: {why}; change that field");
    for (type_, status) in [("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True")] {
        conditions.set(type_, status, "Unreadable", &message);
    }
    json!({"observedGeneration": generation, "conditions": conditions.new})
}

/// Where nothing but figures changed, and those too little or too soon, the status stays as it was.
fn hold_lag(old: &EventConsumerStatus, new: EventConsumerStatus) -> EventConsumerStatus {
    let (Some(lag_before), Some(lag)) = (&old.lag, &new.lag) else { return new };
    if old.dead_letters.is_some() != new.dead_letters.is_some() {
        return new;
    }
    let held = EventConsumerStatus { lag: old.lag.clone(), dead_letters: old.dead_letters.clone(), ..new.clone() };
    let letters = |status: &EventConsumerStatus| status.dead_letters.clone().unwrap_or_default();
    if held == *old && !lag::is_worth_a_write((lag_before, &letters(old)), (lag, &letters(&new))) { held } else { new }
}

fn summarise(object: &EventConsumer, seen: &Seen<'_>) -> Summary {
    let summary = |ready, reconciling, stalled, reason: &str, message: &str| Summary {
        ready,
        reconciling,
        stalled,
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    match seen {
        Seen::New => summary("Unknown", true, false, "Progressing", BEING_MADE),
        Seen::Failed(error @ (Error::Invalid(_) | Error::NotOurs { .. })) => {
            summary("False", false, true, error.reason(), &error.to_string())
        }
        Seen::Failed(error) => summary("False", true, false, error.reason(), &error.to_string()),
        Seen::Applied { deployment, pods, .. } => {
            if let Some(problem) = first_problem(pods) {
                let stalled = problem.reason.needs_change();
                return summary("False", !stalled, stalled, problem.reason.as_str(), &problem.message);
            }
            if let Some((reason, message)) = pods.iter().find_map(|(pod, _)| waiting(pod)) {
                return summary("False", true, false, &reason, &message);
            }
            if let Some(message) = replica_failure(deployment) {
                return summary("False", true, false, "ReplicaFailure", &message);
            }
            // Until its controller has looked at it there is nothing to say that was not said at first.
            if deployment.status.as_ref().and_then(|status| status.observed_generation).is_none() {
                return summary("Unknown", true, false, "Progressing", BEING_MADE);
            }
            let replicas = deployment.spec.replicas.unwrap_or(1);
            if is_rolled_out(deployment, replicas) {
                let (reason, message) = match object.spec.run_state {
                    RunState::Running if replicas == 0 && object.spec.scaling.mode == ScalingMode::Lag => {
                        ("ScaledToZero", "nothing waits: there are pods again when something does".to_owned())
                    }
                    RunState::Running => ("AllReplicasReady", format!("{replicas} of {replicas} replicas take events")),
                    RunState::Paused => ("Paused", "no event is taken; to go on, set runState: Running".to_owned()),
                    RunState::Stopped => ("Stopped", "there are no pods; to go on, set runState: Running".to_owned()),
                };
                return summary("True", false, false, reason, &message);
            }
            summary("False", true, false, "Progressing", "the pods are being started or replaced")
        }
    }
}

/// The first problem that a pod reports. One that needs a change comes before one that may heal.
fn first_problem(pods: &[(Pod, Option<StatusReport>)]) -> Option<StatusProblem> {
    let problems = || pods.iter().filter_map(|(_, report)| report.as_ref()).flat_map(|report| &report.problems);
    problems().find(|problem| problem.reason.needs_change()).or_else(|| problems().next()).cloned()
}

/// What the pods report; nothing while none of them has.
fn reports<'a>(seen: &Seen<'a>) -> Option<Vec<&'a StatusReport>> {
    let Seen::Applied { pods, .. } = seen else { return None };
    let reports: Vec<_> = pods.iter().filter_map(|(_, report)| report.as_ref()).collect();
    (!reports.is_empty()).then_some(reports)
}

fn unknown() -> (&'static str, String, String) {
    ("Unknown", "NotReported".to_owned(), "no pod has reported yet".to_owned())
}

/// What weakens the promise, in the words of the first pod that reports something. The other notes follow the first.
fn degradation(seen: &Seen<'_>) -> (&'static str, String, String) {
    let Some(reports) = reports(seen) else { return unknown() };
    let Some(report) = reports.iter().find(|report| !report.notes.is_empty()) else {
        return ("False", "AsPromised".to_owned(), "no pod that answers reports anything that weakens it".to_owned());
    };
    let reason = report.notes.first().map(|note| note.reason.as_str()).unwrap_or_default();
    let messages: Vec<_> = report.notes.iter().map(|note| note.message.as_str()).collect();
    ("True", reason.to_owned(), messages.join("; "))
}

/// What the pods say together of what waits.
fn figures(seen: &Seen<'_>) -> Option<Figures> {
    let Seen::Applied { pods, scaled, .. } = seen else { return None };
    let reported = lag::add_up(pods.iter().map(|(_, report)| report.as_ref()));
    // While no pod reports, the broker may have been asked.
    let waiting = scaled.and_then(|told| told.asked?.ok());
    reported.or_else(|| waiting.map(|pending| Figures { pending: Some(pending), ..Figures::default() }))
}

/// Whether dead letters wait for somebody. Only JetStream counts them.
fn backlog(
    object: &EventConsumer,
    seen: &Seen<'_>,
    figures: Option<Figures>,
) -> Option<(&'static str, &'static str, String)> {
    object.spec.broker.jet_stream.as_ref()?;
    let subject = &object.spec.delivery.dead_letter.as_ref()?.subject;
    let counted = figures.and_then(|figures| figures.dead_letters);
    Some(match (seen, counted) {
        (Seen::Applied { .. }, Some(0)) => ("False", "NoneWaiting", format!("no dead letter waits on {subject}")),
        (Seen::Applied { .. }, Some(_)) => {
            let name = object.name_any();
            let message = format!(
                "dead letters wait on {subject}: see why with `kubectl exec deploy/{name} -- /binary redrive --dry-run`, mend the cause, and put them back without --dry-run"
            );
            ("True", "LettersWaiting", message)
        }
        _ => ("Unknown", "NotReported", "no pod has counted them yet".to_owned()),
    })
}

fn part_condition(part: Part, seen: &Seen<'_>) -> (&'static str, String, String) {
    let Some(reports) = reports(seen) else { return unknown() };
    match reports.iter().flat_map(|report| &report.problems).find(|problem| problem.part == part) {
        Some(problem) => ("False", problem.reason.as_str().to_owned(), problem.message.clone()),
        None => ("True", "Working".to_owned(), "every pod that answers reports it working".to_owned()),
    }
}

/// Why a pod does not start, in the kubelet's or the scheduler's words.
pub(crate) fn waiting(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    for container in status.container_statuses.iter().flatten() {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else { continue };
        let reason = waiting.reason.clone().unwrap_or_default();
        // These two are the way of every start.
        if !matches!(reason.as_str(), "" | "ContainerCreating" | "PodInitializing") {
            let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let why = last.and_then(|ended| ended.message.clone()).or_else(|| waiting.message.clone());
            return Some((reason, format!("pod {name}: {}", why.unwrap_or_default())));
        }
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(("Unschedulable".to_owned(), format!("pod {name}: {}", unscheduled.message.clone().unwrap_or_default())))
}

/// What keeps the Deployment from making pods: a quota, an admission rule.
fn replica_failure(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| {
        condition.type_.as_deref() == Some("ReplicaFailure") && condition.status.as_deref() == Some("True")
    })?;
    failure.message.clone()
}

/// Whether somebody but the spec decides how many pods there are, and can.
fn scaling_active(object: &EventConsumer, seen: &Seen<'_>) -> Option<(&'static str, &'static str, String)> {
    let scaling = &object.spec.scaling;
    let unknown = "the lag is not known: see BrokerReady and the pods; meanwhile scaling.onUnknownLag holds";
    let most = "more pods would be used: raise scaling.maxReplicas, or the number of partitions";
    let scaled = match seen {
        Seen::Applied { scaled, .. } => *scaled,
        Seen::New | Seen::Failed(_) => None,
    };
    let (status, reason, message) = match (scaling.mode, scaled) {
        (ScalingMode::Static, _) => return None,
        (ScalingMode::External, _) => ("True", "External", "replicas is set by way of the scale subresource"),
        (ScalingMode::Lag, _) if object.spec.run_state != RunState::Running => {
            ("False", "NotRunning", "nothing is scaled while runState is not Running")
        }
        (ScalingMode::Lag, None) => ("Unknown", "NotReported", "the pods have not been looked at yet"),
        (ScalingMode::Lag, Some(Told { asked: Some(Err(hindrance)), .. })) => {
            ("False", hindrance.reason(), hindrance.message())
        }
        (ScalingMode::Lag, Some(Told { reason: scaling::Reason::Measured, .. })) => {
            ("True", "Measured", "replicas follow the lag")
        }
        (ScalingMode::Lag, Some(Told { reason: scaling::Reason::AtMaximum, .. })) => ("True", "AtMaximum", most),
        (ScalingMode::Lag, Some(Told { reason: scaling::Reason::LagUnknown, .. })) => ("False", "LagUnknown", unknown),
    };
    Some((status, reason, message.to_owned()))
}

fn is_rolled_out(deployment: &Deployment, replicas: i32) -> bool {
    let Some(status) = &deployment.status else { return false };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas.unwrap_or_default() == replicas
        && status.replicas.unwrap_or_default() == replicas
        && status.ready_replicas.unwrap_or_default() == replicas
}

fn broker(object: &EventConsumer) -> &'static str {
    match &object.spec.broker {
        Broker { jet_stream: Some(_), .. } => "JetStream",
        Broker { kafka: Some(_), .. } => "Kafka",
        Broker { .. } => "NATS",
    }
}

fn handler(object: &EventConsumer) -> &'static str {
    let handler = &object.spec.handler;
    let kinds = [
        (handler.email.is_some(), "email"),
        (handler.analytics.is_some(), "analytics"),
        (handler.inventory.is_some(), "inventory"),
        (handler.http.is_some(), "http"),
    ];
    kinds.into_iter().find(|(is_set, _)| *is_set).map_or("log", |(_, name)| name)
}

fn guarantee(object: &EventConsumer) -> DeliveryGuarantee {
    DeliveryGuarantee::of(&object.spec.broker, &object.spec.idempotency)
}

pub(crate) fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Collects conditions. The time of a condition's last transition stays while its status does.
pub(crate) struct Conditions<'a> {
    old: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
    new: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    pub(crate) fn new(old: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self { old, generation, now, new: Vec::new() }
    }

    pub(crate) fn collected(self) -> Vec<Condition> {
        self.new
    }

    pub(crate) fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let old = self.old.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        self.new.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            // The API server takes 32 KiB; nobody reads that.
            message: message.chars().take(1024).collect(),
            last_transition_time: old
                .map_or_else(|| Time(self.now), |condition| condition.last_transition_time.clone()),
            observed_generation: self.generation,
        });
    }
}
