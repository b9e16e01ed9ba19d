//! `operator-faults`: every plan. Fails when one does.

use std::process::ExitCode;

use millrace_operator_trials::faults::{
    outage, plans,
    rights::{self, Task},
    workload::Workload,
};

/// How often the API server is killed.
const KILLS: usize = 20;

#[tokio::main]
async fn main() -> ExitCode {
    let rules = operator::rbac::rules();
    let mut tally = plans::run(&Workload::ALL, &rules).await;
    tally.add(outage::run(KILLS, true, &rules).await);
    tally.add(rights::run(&rights::AT_WORK, &rights::AT_START).await);
    tally.add(rights::run_first(Task::MakeWithVolume, &rights::AT_CREATION).await);
    tally.add(rights::run_first(Task::Replay, &rights::AT_REPLAY).await);
    tally.add(rights::run_first(Task::Delete, &rights::AT_DELETION).await);
    println!("{tally}");
    if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
