//! Protects what the operator does to a real API server: what it writes, when it does not, and what it says.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

mod replay;
mod support;
mod wake;

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, Namespace, ServiceAccount},
    events::v1::Event,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::{FakePod, wait_for};
use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE, condition, report};

#[tokio::test]
async fn what_the_pods_report_is_added_up_in_the_status_and_turns_are_events() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator();
    cluster.apply("log", json!({})).await;
    let fresh = cluster.made().await;
    assert!(condition(&fresh, "Reconciling", "True", "Progressing") && fresh["lag"].is_null());
    operator.stop().await;

    // The next operator finds both at once: what one of them changed after the other would be written later.
    let (mut first, second) = (report(7, 2, 3), report(8, 1, 0));
    first.lag.last_dead_letter = "2026-01-02T03:04:05Z".parse().ok();
    let pods = [
        FakePod::start(cluster.client(), "shop", "order-log", first).await,
        FakePod::start(cluster.client(), "shop", "order-log", second).await,
    ];
    let operator = cluster.operator();

    let told = cluster.status_when("the lag is told", |status| status["lag"]["inFlight"] == 3).await;
    assert_eq!(told["lag"]["pending"], 8);
    assert_eq!(told["deadLetters"], json!({"pending": 3, "lastTime": "2026-01-02T03:04:05Z"}));
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
    cluster.made().await;
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

#[tokio::test]
async fn replicas_follow_the_lag_that_the_pods_report_and_stay_where_it_is_unknown() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator();
    let scaling = json!({"mode": "Lag", "maxReplicas": 6, "targetPendingPerReplica": 100, "cooldownSeconds": 4});
    cluster.apply("log", json!({"scaling": scaling})).await;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), "shop");
    let replicas = async |wanted: i32| {
        let is_there =
            || async { (deployments.get("order-log").await.ok()?.spec.replicas == Some(wanted)).then_some(()) };
        wait_for(&format!("{wanted} replicas"), PATIENCE, is_there).await;
    };
    cluster.status_when("nobody reports", |status| condition(status, "ScalingActive", "False", "LagUnknown")).await;
    replicas(1).await;

    let pod = FakePod::start(cluster.client(), "shop", "order-log", report(390, 10, 0)).await;
    replicas(4).await;
    cluster.status_when("it is measured", |status| condition(status, "ScalingActive", "True", "Measured")).await;
    pod.reports(report(10_000, 0, 0));
    replicas(6).await;
    cluster.status_when("it is at its maximum", |status| condition(status, "ScalingActive", "True", "AtMaximum")).await;
    let mut unknown = report(0, 0, 0);
    unknown.lag.pending = None;
    pod.reports(unknown);
    cluster.status_when("the lag is unknown", |status| condition(status, "ScalingActive", "False", "LagUnknown")).await;
    replicas(6).await;
    pod.reports(report(0, 150, 0));
    replicas(2).await;

    // Somebody else decides: what the scale subresource says is what there is, and the operator does not touch it.
    cluster.apply("log", json!({"scaling": {"mode": "External"}})).await;
    let objects: Api<EventConsumer> = Api::namespaced(cluster.client(), "shop");
    let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
    objects.patch_scale("order-log", &PatchParams::default(), &scale).await.unwrap();
    replicas(5).await;
    let told = cluster.status_when("it is told", |status| condition(status, "ScalingActive", "True", "External")).await;
    assert_eq!(told["selector"], "millrace.dev/consumer=order-log");
    assert_eq!(objects.get_scale("order-log").await.unwrap().spec.unwrap().replicas, Some(5));
    operator.stop().await;
}

#[tokio::test]
async fn an_object_whose_durable_is_to_go_stays_until_a_job_has_deleted_it_or_it_is_told_that_it_is_left() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator();
    let broker =
        json!({"jetStream": {"servers": ["nats://nats:4222"], "stream": "ORDERS", "deletionPolicy": "Delete"}});
    let make = || async {
        cluster.apply("log", json!({"broker": broker})).await;
        let held = || async { (!cluster.object("order-log").await.finalizers().is_empty()).then_some(()) };
        wait_for("it has its finalizer", PATIENCE, held).await;
        cluster.made().await
    };
    let gone = || async { cluster.try_object("order-log").await.is_none().then_some(()) };
    let jobs: Api<Job> = Api::namespaced(cluster.client(), "shop");
    let ends_as = async |conditions: Value| {
        let job = || async { jobs.get_opt("order-log-del-durable").await.unwrap() };
        let job = wait_for("the Job is made", PATIENCE, job).await;
        let now = "2026-01-01T00:00:00Z";
        let conditions = conditions.as_array().unwrap().iter().map(|type_| {
            json!({"type": type_, "status": "True", "reason": "Test", "message": "m", "lastTransitionTime": now})
        });
        let mut status = json!({"startTime": now, "conditions": conditions.collect::<Vec<_>>()});
        if status["conditions"][1]["type"] == "Complete" {
            status["completionTime"] = json!(now);
        }
        let patch = Patch::Merge(json!({"status": status}));
        jobs.patch_status(&job.name_any(), &PatchParams::default(), &patch).await.unwrap();
        job
    };

    // The pods go first: a runtime makes its durable again.
    make().await;
    let pod = FakePod::start(cluster.client(), "shop", "order-log", report(0, 0, 0)).await;
    cluster.delete("order-log").await;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), "shop");
    let is_stopped = || async { (deployments.get("order-log").await.ok()?.spec.replicas == Some(0)).then_some(()) };
    wait_for("it is stopped", PATIENCE, is_stopped).await;
    assert!(jobs.list(&ListParams::default()).await.unwrap().items.is_empty());
    // A foreground deletion takes the children first, and the pod of the Job needs this one.
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), "shop");
    accounts.delete("order-log", &DeleteParams::default()).await.unwrap();
    pod.delete().await;
    let job = serde_json::to_value(ends_as(json!(["SuccessCriteriaMet", "Complete"])).await).unwrap();
    wait_for("it is gone", PATIENCE, gone).await;
    assert!(accounts.get_opt("order-log").await.unwrap().is_some());
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["args"].as_array().unwrap().last().unwrap(), "delete-durable");
    assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);

    // Who thinks better of it keeps the durable.
    cluster.collect_garbage().await;
    make().await;
    let pod = FakePod::start(cluster.client(), "shop", "order-log", report(0, 0, 0)).await;
    cluster.delete("order-log").await;
    wait_for("it is stopped", PATIENCE, is_stopped).await;
    let mut kept = broker.clone();
    kept["jetStream"]["deletionPolicy"] = json!("Retain");
    cluster.apply("log", json!({"broker": kept})).await;
    wait_for("it is gone", PATIENCE, gone).await;
    assert!(jobs.get_opt("order-log-del-durable").await.unwrap().is_none());
    pod.delete().await;

    // A Job that fails is told, and keeps nobody.
    cluster.collect_garbage().await;
    make().await;
    cluster.delete("order-log").await;
    ends_as(json!(["FailureTarget", "Failed"])).await;
    wait_for("it is gone", PATIENCE, gone).await;
    let events: Api<Event> = Api::namespaced(cluster.client(), "shop");
    let reasons: Vec<_> =
        events.list(&ListParams::default()).await.unwrap().items.into_iter().filter_map(|event| event.reason).collect();
    assert!(reasons.contains(&"DurableLeft".to_owned()), "{reasons:?}");

    // A namespace that is going takes no Job.
    cluster.collect_garbage().await;
    make().await;
    Api::<Namespace>::all(cluster.client()).delete("shop", &DeleteParams::default()).await.unwrap();
    cluster.delete("order-log").await;
    wait_for("it is gone", PATIENCE, gone).await;
    operator.stop().await;
}
