//! What is said about a `DeadLetterReplay`. Pure, and right for kstatus: `Ready` from the first visit on, `Reconciling` until
//! it has ended, `Stalled` when it has failed or somebody must change something.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    ResourceExt as _,
    runtime::events::{Event, EventType},
};
use millrace_config::status::{ProblemReason, StatusProblem, StatusReport};
use millrace_operator_api::{DeadLetterReplay, DeadLetterReplayStatus, DryRun, ListedLetter};

use crate::{
    error::Error,
    replay::tally::{self, Totals},
    status::{Conditions, truth, waiting},
};

/// What was seen of a replay.
#[derive(Debug)]
pub enum Seen<'a> {
    /// It is new: nothing has been done yet.
    New,
    /// It cannot be started, by itself or at all, for this reason.
    NotStarted {
        /// Whether somebody must change something.
        is_stalled: bool,
        /// Stable name of why.
        reason: &'static str,
        /// Why, and what to do.
        message: String,
    },
    /// This is its Job, and these are its pods, each with its report, if it gave one.
    Started(&'a Job, &'a [(Pod, Option<StatusReport>)]),
    /// It could not be looked after.
    Failed(&'a Error),
}

/// How it stands in all.
struct Summary {
    ready: &'static str,
    reconciling: bool,
    stalled: bool,
    reason: String,
    message: String,
}

/// Whether it has come to its end. It is not carried out again.
pub fn has_ended(replay: &DeadLetterReplay) -> bool {
    replay.status.as_ref().is_some_and(|status| status.completion_time.is_some())
}

/// The status that `replay` is to have.
pub fn status(replay: &DeadLetterReplay, seen: &Seen<'_>, now: Timestamp) -> DeadLetterReplayStatus {
    let old = replay.status.clone().unwrap_or_default();
    let mut new = DeadLetterReplayStatus { observed_generation: replay.metadata.generation, ..old.clone() };
    if let Seen::Started(job, pods) = seen {
        new.job = Some(job.name_any());
        new.start_time.clone_from(&job.metadata.creation_timestamp);
        new.completion_time = end(job).map(|(_, time)| time.unwrap_or(Time(now)));
        new.runs = tally::runs(&old.runs, pods);
        let Totals { matched, succeeded, failed, parked, unreadable } = tally::add_up(&new.runs, replay.spec.target);
        (new.matched, new.succeeded, new.failed, new.parked, new.unreadable) =
            (matched, succeeded, failed, parked, unreadable);
        new.replayed = succeeded.saturating_add(failed);
        let letters = tally::letters(pods);
        if !letters.is_empty() {
            new.letters = letters
                .into_iter()
                .map(|letter| ListedLetter {
                    id: letter.id,
                    reason: letter.reason,
                    origin: letter.origin,
                    replays: letter.replays.into(),
                })
                .collect();
        }
    }
    let Summary { ready, reconciling, stalled, reason, message } = summarise(replay, seen, &new);
    let mut conditions = Conditions::new(&old.conditions, replay.metadata.generation, now);
    conditions.set("Ready", ready, &reason, &message);
    conditions.set("Reconciling", truth(reconciling), &reason, &message);
    conditions.set("Stalled", truth(stalled), &reason, &message);
    new.conditions = conditions.collected();
    new
}

fn summarise(replay: &DeadLetterReplay, seen: &Seen<'_>, new: &DeadLetterReplayStatus) -> Summary {
    let summary = |ready, reconciling, stalled, reason: &str, message: String| Summary {
        ready,
        reconciling,
        stalled,
        reason: reason.to_owned(),
        message,
    };
    match seen {
        Seen::New => summary("Unknown", true, false, "Pending", "it is about to be started".to_owned()),
        Seen::NotStarted { is_stalled, reason, message } => {
            summary("False", !is_stalled, *is_stalled, reason, message.clone())
        }
        Seen::Failed(error) => {
            let stalled = !error.is_transient();
            summary("False", !stalled, stalled, error.reason(), error.to_string())
        }
        Seen::Started(job, pods) => match end(job) {
            Some((condition, _)) if condition.type_ == "Complete" => {
                let (reason, message) = complete(replay, job, new);
                summary("True", false, false, reason, message)
            }
            Some((condition, _)) => {
                let why = condition.message.clone().unwrap_or_default();
                let message = format!(
                    "the Job has failed: {why}; what is not done is where it was: create another DeadLetterReplay when that is mended{}",
                    vanished(job, new)
                );
                summary("False", false, true, "Failed", message)
            }
            None => {
                if let Some(problem) = problem(pods) {
                    let stalled = problem.reason.needs_change();
                    return summary("False", !stalled, stalled, problem.reason.as_str(), problem.message);
                }
                if let Some((reason, message)) = pods.iter().find_map(|(pod, _)| waiting(pod)) {
                    return summary("False", true, false, &reason, message);
                }
                summary("False", true, false, "Running", "its Job is at work".to_owned())
            }
        },
    }
}

/// The reason and the words for one that has come to its end.
fn complete(replay: &DeadLetterReplay, job: &Job, new: &DeadLetterReplayStatus) -> (&'static str, String) {
    let DeadLetterReplayStatus { matched, succeeded, failed, parked, .. } = new;
    if replay.spec.dry_run == DryRun::All {
        let log = format!("kubectl logs job/{}", job.name_any());
        return ("Complete", format!("{matched} letters match, of which {parked} are parked; `{log}` lists them all"));
    }
    let message = format!(
        "{succeeded} of {matched} letters succeeded, {failed} failed, {parked} are parked{}",
        vanished(job, new)
    );
    (if *failed > 0 { "CompleteWithFailures" } else { "Complete" }, message)
}

/// What is to be said of pods that the Job knows to have ended, and whose last word nobody has.
fn vanished(job: &Job, new: &DeadLetterReplayStatus) -> String {
    let status = job.status.clone().unwrap_or_default();
    let ended = status.failed.unwrap_or_default().saturating_add(status.succeeded.unwrap_or_default());
    let heard = new.runs.iter().filter(|run| run.is_final).count();
    let vanished = usize::try_from(ended).unwrap_or_default().saturating_sub(heard);
    if vanished == 0 {
        return String::new();
    }
    format!("; {vanished} pods vanished without a last report: what they did after the one before is not counted")
}

/// The condition that says how the Job ended, and when that was.
fn end(job: &Job) -> Option<(&JobCondition, Option<Time>)> {
    let status = job.status.as_ref()?;
    let is_end = |condition: &&JobCondition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    };
    let condition = status.conditions.iter().flatten().find(is_end)?;
    Some((condition, status.completion_time.clone().or_else(|| condition.last_transition_time.clone())))
}

/// What keeps the pods from working. What a redrive does not need stays unconnected, which is no problem.
fn problem(pods: &[(Pod, Option<StatusReport>)]) -> Option<StatusProblem> {
    let problems = pods.iter().filter_map(|(_, report)| report.as_ref()).flat_map(|report| &report.problems);
    problems
        .filter(|problem| problem.reason != ProblemReason::Connecting)
        .max_by_key(|problem| problem.reason.needs_change())
        .cloned()
}

/// The Event that the change from `old` to `new` is worth: when the reason turns, and never for waiting.
pub fn event(old: Option<&DeadLetterReplayStatus>, new: &DeadLetterReplayStatus) -> Option<Event> {
    let ready = |status: &DeadLetterReplayStatus| -> Option<Condition> {
        status.conditions.iter().find(|condition| condition.type_ == "Ready").cloned()
    };
    let now = ready(new)?;
    if now.reason == "Pending" || old.and_then(ready).is_some_and(|before| before.reason == now.reason) {
        return None;
    }
    let is_good = matches!(now.reason.as_str(), "Running" | "Complete" | "ConsumerChanging");
    Some(Event {
        type_: if is_good { EventType::Normal } else { EventType::Warning },
        reason: now.reason,
        // The API server takes 1 kB.
        note: Some(now.message.chars().take(256).collect()),
        action: "Replay".to_owned(),
        secondary: None,
    })
}
