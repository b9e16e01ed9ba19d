//! Protects what the operator does to a real API server: what it writes, when it does not, and what it says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

mod support;

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap, events::v1::Event};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use millrace_operator_testkit::{FakePod, wait_for};
use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE, condition, report};

#[tokio::test]
async fn what_the_pods_report_is_added_up_in_the_status_and_turns_are_events() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator();
    cluster.apply("log", json!({})).await;
    let fresh =
        cluster.status_when("it is on its way", |status| condition(status, "Ready", "False", "Progressing")).await;
    assert!(condition(&fresh, "Reconciling", "True", "Progressing") && fresh["lag"].is_null());

    let (first, second) = (report(7, 2, 3), report(8, 1, 0));
    let pods = [
        FakePod::start(cluster.client(), "shop", "order-log", &FakePod::address(1), first).await,
        FakePod::start(cluster.client(), "shop", "order-log", &FakePod::address(2), second).await,
    ];

    let told = cluster.status_when("the lag is told", |status| status["lag"]["inFlight"] == 3).await;
    assert_eq!((&told["lag"]["pending"], &told["deadLetters"]["pending"]), (&json!(8), &json!(3)));
    assert!(condition(&told, "DeadLetterBacklog", "True", "LettersWaiting"), "{told}");
    assert!(condition(&told, "BrokerReady", "True", "Working"), "{told}");
    for condition in told["conditions"].as_array().unwrap() {
        assert_eq!(condition["observedGeneration"], 1, "{condition}");
    }
    let events: Api<Event> = Api::namespaced(cluster.client(), "shop");
    let event = wait_for("an Event", PATIENCE, || async {
        events.list(&ListParams::default()).await.ok()?.items.into_iter().next()
    })
    .await;
    assert_eq!((event.reason.as_deref(), event.type_.as_deref()), (Some("LettersWaiting"), Some("Warning")));

    for pod in pods {
        pod.delete().await;
    }
    let unknown = |status: &Value| condition(status, "DeadLetterBacklog", "Unknown", "NotReported");
    let gone = cluster.status_when("nobody reports any more", unknown).await;
    assert!(gone["lag"].is_null() && gone["deadLetters"].is_null(), "what is not known is not told: {gone}");
    operator.stop().await;
}

#[tokio::test]
async fn a_child_that_is_changed_is_repaired_and_one_that_is_right_is_not_written_by_a_new_operator() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator();
    cluster.apply("log", json!({})).await;
    cluster.status_when("it is on its way", |status| condition(status, "Ready", "False", "Progressing")).await;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), "shop");
    let scaled = json!({"spec": {"replicas": 5}});
    deployments.patch("order-log", &PatchParams::default(), &Patch::Merge(scaled)).await.unwrap();
    let is_repaired = || async { (deployments.get("order-log").await.ok()?.spec.replicas == Some(1)).then_some(()) };
    wait_for("the Deployment is repaired", PATIENCE, is_repaired).await;
    operator.stop().await;

    // The second operator has everything to look at, and nothing to write.
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "shop");
    let versions = || async {
        let deployment = deployments.get("order-log").await.unwrap().resource_version();
        let map = maps.get("order-log").await.unwrap().resource_version();
        (deployment, map, cluster.object("order-log").await.resource_version())
    };
    let before = versions().await;
    let operator = cluster.operator();
    cluster.apply("nats-core", json!({})).await;
    wait_for("another object is reconciled", PATIENCE, || async {
        let other = cluster.try_object("core-log").await?.status?;
        other.observed_generation
    })
    .await;
    wait_for("the old object was looked at", Duration::from_secs(10), || async {
        (operator.reconciles() >= 2).then_some(())
    })
    .await;
    assert_eq!(versions().await, before);
    operator.stop().await;
}
