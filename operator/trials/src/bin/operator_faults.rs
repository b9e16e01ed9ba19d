//! `operator-faults`: every plan. Fails when one does.

use std::process::ExitCode;

use millrace_operator_trials::faults::{outage, plans, workload::Workload};

/// How often the API server is killed.
const KILLS: usize = 20;

#[tokio::main]
async fn main() -> ExitCode {
    let rules = operator::rbac::rules();
    let mut tally = plans::run(&Workload::ALL, &rules).await;
    let outages = outage::run(KILLS, true, &rules).await;
    tally.plans += outages.plans;
    tally.failures.extend(outages.failures);
    println!("{tally}");
    if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
