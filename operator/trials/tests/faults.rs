//! Protects what is promised of faults, in short: `make operator-faults` has every plan.

use std::time::Duration;

use millrace_operator_testkit::{ApiServer, wait_for};
use millrace_operator_trials::faults::{
    layer::Faults,
    outage,
    plans::{self, LISTS, Running},
    workload::{Shop, Workload},
};

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

#[tokio::test]
async fn nothing_is_made_for_a_consumer_that_was_changed_since_it_was_seen_without_a_status() {
    let server = ApiServer::start().await;
    server.grant("operator", None, &operator::rbac::rules()).await;
    server.make_namespace("shop").await;
    let shop = Shop { client: server.client(), namespace: "shop".to_owned() };
    shop.carry_out(Workload::Create).await;
    // It sees the consumer, and gets nothing written.
    let mute = Faults::default();
    mute.refuse(usize::MAX, 500);
    let operator = Running::start(&server, &shop, mute);
    let listed = || async { (operator.faults.lists().len() >= LISTS).then_some(()) };
    wait_for("everything is listed", Duration::from_secs(30), listed).await;
    let seen = operator.faults.lists();
    drop(operator.kill().await);
    shop.set_workers(17).await;

    let operator = Running::start(&server, &shop, Faults::default().with_old_view(seen));
    let tried = || async { (operator.faults.writes().len() >= 2).then_some(()) };
    wait_for("it has tried twice", Duration::from_secs(30), tried).await;

    let writes = operator.faults.writes();
    assert!(writes.iter().all(|write| write.path.ends_with("/status") && write.status == 409), "{writes:?}");
    operator.faults.catch_up();
    wait_for("it sees the change", Duration::from_secs(30), || async { shop.is_done().await.then_some(()) }).await;
    drop(operator.kill().await);
}
