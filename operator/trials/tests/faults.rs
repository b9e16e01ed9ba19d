//! Protects what is promised of faults, in short: `make operator-faults` has every plan.

use millrace_operator_trials::faults::{outage, plans, workload::Workload};

#[tokio::test]
async fn a_crash_after_any_write_lost_notifications_and_old_views_end_like_an_undisturbed_run() {
    let tally = plans::run(&[Workload::Create], &operator::rbac::rules()).await;
    assert!(tally.failures.is_empty() && tally.plans >= 8, "{tally:?}");
}

#[tokio::test]
async fn an_api_server_that_comes_back_finds_an_operator_that_has_waited_quietly() {
    let tally = outage::run(1, false, &operator::rbac::rules()).await;
    assert!(tally.failures.is_empty() && tally.plans == 1, "{tally:?}");
}
