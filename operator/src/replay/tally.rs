//! What the pods of a replay's Job came to, added up so that each letter counts once. Pure.
//!
//! A pod counts what it did itself, through all restarts of its container. A letter that one pod has taken out is not there
//! for the next. One that it left where it is, is found again: of those the last pod's count is right.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use kube::ResourceExt as _;
use millrace_config::{
    replay::{ReplayLetter, ReplayReport},
    status::StatusReport,
};
use millrace_operator_api::{ReplayRun, ReplayTarget};

/// Most runs that are kept: more pods than a Job starts before it gives up.
const RUNS_MAX: usize = 128;

/// The counts of a status.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Letters that the filter is for.
    pub matched: i64,
    /// Handled, or back at their source.
    pub succeeded: i64,
    /// Failed again, or not put back.
    pub failed: i64,
    /// Left where they are.
    pub parked: i64,
    /// Not to be read.
    pub unreadable: i64,
}

/// The runs that are known, with what their pods say now. A pod that is gone keeps its last word.
pub fn runs(before: &[ReplayRun], pods: &[(Pod, Option<StatusReport>)]) -> Vec<ReplayRun> {
    let mut runs = before.to_vec();
    let mut pods: Vec<_> = pods.iter().collect();
    pods.sort_by_key(|(pod, _)| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name_any()));
    for (pod, live) in pods {
        let Some((report, is_final)) = last_word(pod, live.as_ref()) else { continue };
        let run = ReplayRun {
            pod: pod.name_any(),
            matched: signed(report.matched),
            succeeded: signed(report.succeeded),
            failed: signed(report.failed),
            parked: signed(report.parked),
            unreadable: signed(report.unreadable),
            is_final,
        };
        if let Some(known) = runs.iter_mut().find(|known| known.pod == run.pod) {
            *known = run;
        } else if runs.len() < RUNS_MAX {
            runs.push(run);
        }
    }
    runs
}

/// The sum of all runs.
pub fn add_up(runs: &[ReplayRun], target: ReplayTarget) -> Totals {
    let Some((last, earlier)) = runs.split_last() else { return Totals::default() };
    let mut totals = Totals {
        matched: last.matched,
        succeeded: last.succeeded,
        failed: last.failed,
        parked: last.parked,
        unreadable: last.unreadable,
    };
    for run in earlier {
        // What could not be put back at its source is where it was.
        let failed = if target == ReplayTarget::Handler { run.failed } else { 0 };
        totals.succeeded = totals.succeeded.saturating_add(run.succeeded);
        totals.failed = totals.failed.saturating_add(failed);
        totals.matched = totals.matched.saturating_add(run.succeeded).saturating_add(failed);
    }
    totals
}

/// The letters that a dry run lists.
pub fn letters(pods: &[(Pod, Option<StatusReport>)]) -> Vec<ReplayLetter> {
    let reports = pods.iter().filter_map(|(pod, live)| last_word(pod, live.as_ref()));
    reports.map(|(report, _)| report.letters).max_by_key(Vec::len).unwrap_or_default()
}

/// The newest report of a pod, and whether there will be none after it.
fn last_word(pod: &Pod, live: Option<&StatusReport>) -> Option<(ReplayReport, bool)> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().next();
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if let Some(report) = container.and_then(|container| reported(container, |container| container.state.as_ref())) {
        return Some((report, has_ended));
    }
    if let Some(report) = live.and_then(|live| live.replay.clone()) {
        let has_stopped = report.stopped;
        return Some((report, has_stopped));
    }
    Some((container.and_then(|container| reported(container, |container| container.last_state.as_ref()))?, false))
}

/// The report in the termination message of a container. It is its first line: what an earlier, longer one left may follow.
fn reported(
    container: &ContainerStatus,
    state: impl Fn(&ContainerStatus) -> Option<&ContainerState>,
) -> Option<ReplayReport> {
    let message = state(container)?.terminated.as_ref()?.message.as_ref()?;
    serde_json::from_str(message.lines().next()?).ok()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, status: &serde_json::Value) -> Pod {
        let created = format!("2026-01-01T00:00:0{}Z", name.len());
        serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created}, "status": status}))
            .unwrap()
    }

    fn ended(phase: &str, message: &str) -> serde_json::Value {
        let state = json!({"terminated": {"exitCode": 1, "message": message}});
        json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
    }

    #[test]
    fn what_earlier_pods_took_out_adds_up_and_what_they_left_counts_once() {
        let first = r#"{"matched":10,"succeeded":3,"failed":2,"parked":4,"unreadable":1}
eft over from a longer one"}"#;
        let second = r#"{"matched":8,"succeeded":2,"failed":1,"parked":5,"unreadable":1,"ended":true}"#;
        let pods = [(pod("bb", &ended("Succeeded", second)), None), (pod("a", &ended("Failed", first)), None)];

        let seen = runs(&[], &pods);

        let names: Vec<_> = seen.iter().map(|run| (run.pod.as_str(), run.is_final)).collect();
        assert_eq!(names, [("a", true), ("bb", true)], "in the order in which they were started");
        let totals = Totals { matched: 13, succeeded: 5, failed: 3, parked: 5, unreadable: 1 };
        assert_eq!(add_up(&seen, ReplayTarget::Handler), totals);
        assert_eq!(add_up(&seen, ReplayTarget::Source), Totals { matched: 11, failed: 1, ..totals });

        // A pod that is gone keeps its last word, and looking again changes nothing.
        assert_eq!(runs(&seen, &pods[..1]), seen);
        assert_eq!(add_up(&[], ReplayTarget::Handler), Totals::default());
    }

    #[test]
    fn while_a_container_runs_its_own_word_counts_and_between_two_starts_that_of_the_last_one() {
        let mut status = ended("Running", r#"{"matched":3,"succeeded":1}"#);
        let container = &mut status["containerStatuses"][0];
        container["lastState"] = container["state"].take();
        container["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let waits = pod("a", &status);
        let live = |succeeded: u64| -> StatusReport {
            serde_json::from_value(json!({
                "version": "0", "phase": "Running", "deliveryGuarantee": "AtLeastOnce", "lag": {"inFlight": 0}, "totals": {},
                "replay": {"matched": 3, "succeeded": succeeded},
            }))
            .unwrap()
        };
        let succeeded = |live: Option<StatusReport>| {
            let run = runs(&[], &[(waits.clone(), live)]).remove(0);
            (run.succeeded, run.is_final)
        };

        assert_eq!((succeeded(None), succeeded(Some(live(2)))), ((1, false), (2, false)));
        let mut stopped = live(2);
        stopped.replay.as_mut().unwrap().stopped = true;
        assert_eq!(succeeded(Some(stopped)), (2, true), "a pod that is deleted may be gone before anybody looks again");
        assert!(runs(&[], &[(pod("a", &ended("Failed", "panicked at")), None)]).is_empty(), "that is no report");
    }
}
