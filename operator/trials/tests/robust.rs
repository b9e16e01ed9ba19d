//! Protects the operator from what it may not do, what it cannot read, and where it may make nothing: it says so, harms
//! nobody else, and goes on when that is mended.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Pod, ResourceQuota},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::{ApiServer, wait_for};
use millrace_operator_trials::faults::{
    layer::Faults,
    plans::Running,
    ready::{MENDED, NAMED, when_ready_is},
    rights::{self, Task},
    workload::{Shop, Workload},
};
use serde_json::{Value, json};

async fn shop() -> (ApiServer, Shop) {
    let server = ApiServer::start().await;
    server.grant("operator", None, &operator::rbac::rules()).await;
    server.make_namespace("shop").await;
    let shop = Shop { client: server.client(), namespace: "shop".to_owned() };
    (server, shop)
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_and_what_waits_for_it_goes_on_when_it_is_back() {
    let at_work = [("configmaps", "patch"), ("deployments", "create"), ("eventconsumers", "patch")];
    let at_start = [("deployments", "list"), ("pods", "watch"), ("configmaps", "watch")];
    let tally = rights::run(&at_work, &at_start).await;
    assert!(tally.failures.is_empty() && tally.plans == 6, "{tally:?}");
}

#[tokio::test]
async fn a_right_that_a_deletion_needs_is_named_and_the_consumer_goes_when_it_is_back() {
    let tally = rights::run_first(Task::Delete, &[("jobs", "create")]).await;
    assert!(tally.failures.is_empty() && tally.plans == 1, "{tally:?}");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_so_and_harms_no_other() {
    let (server, shop) = shop().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(shop.client.clone());
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {"spec": anything, "status": anything}});
    let anything = json!([
        {"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": schema},
        // What can be selected by must stand in the schema.
        {"op": "remove", "path": "/spec/versions/0/selectableFields"},
    ]);
    let patch = Patch::<()>::Json(serde_json::from_value(anything).unwrap());
    let name = "eventconsumers.millrace.dev";
    definitions.patch(name, &PatchParams::default(), &patch).await.unwrap();
    let kind = ApiResource::erase::<EventConsumer>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(shop.client.clone(), &shop.namespace, &kind);
    let poison = DynamicObject::new("poison", &kind).data(json!({"spec": {"workers": "many"}}));
    wait_for("the definition takes anything", NAMED, || async {
        match api.create(&PostParams::default(), &poison).await {
            Ok(_) => Some(()),
            Err(_) => None,
        }
    })
    .await;

    let operator = Running::start(&server, &shop, Faults::default());
    let why = when_ready_is(&shop, "poison", NAMED, "False Unreadable").await;
    assert!(why.contains("Expected u32"), "{why}");
    shop.carry_out(Workload::Create).await;
    let large = json!({"metadata": {"annotations": {"large": "x".repeat(250_000)}}});
    api.patch("order-log", &PatchParams::default(), &Patch::Merge(large)).await.unwrap();
    shop.set_workers(9).await;
    when_ready_is(&shop, "order-log", Duration::from_secs(5), "Unknown Progressing").await;
    let before = api.get("poison").await.unwrap().resource_version();
    drop(operator.kill().await);
    let operator = Running::start(&server, &shop, Faults::default());
    shop.set_workers(10).await;
    wait_for("another one is reconciled", NAMED, || async { shop.is_done().await.then_some(()) }).await;
    assert_eq!(api.get("poison").await.unwrap().resource_version(), before, "nothing new is said of it");
    let log: Value = serde_json::to_value(api.get("order-log").await.unwrap()).unwrap();
    let mended = Patch::Merge(json!({"spec": log["spec"].clone()}));
    let workers = Patch::Merge(json!({"spec": {"workers": null}}));
    api.patch("poison", &PatchParams::default(), &workers).await.unwrap();
    api.patch("poison", &PatchParams::default(), &mended).await.unwrap();
    when_ready_is(&shop, "poison", NAMED, "Unknown Progressing").await;
    drop(operator.kill().await);
}

#[tokio::test]
async fn where_nothing_may_be_made_that_is_said_and_pods_are_fit_for_a_restricted_namespace() {
    let (server, shop) = shop().await;
    let quotas: Api<ResourceQuota> = Api::namespaced(shop.client.clone(), "shop");
    let none = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/deployments.apps": "0"}}});
    quotas.create(&PostParams::default(), &serde_json::from_value(none).unwrap()).await.unwrap();
    // A controller would fill this in.
    let status = json!({"status": {"hard": {"count/deployments.apps": "0"}, "used": {"count/deployments.apps": "0"}}});
    quotas.patch_status("none", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let operator = Running::start(&server, &shop, Faults::default());
    shop.carry_out(Workload::Create).await;
    let why = when_ready_is(&shop, "order-log", NAMED, "False QuotaExceeded").await;
    assert!(why.contains("count/deployments.apps"), "{why}");
    quotas.delete("none", &DeleteParams::default()).await.unwrap();
    when_ready_is(&shop, "order-log", MENDED, "Unknown Progressing").await;
    drop(operator.kill().await);

    let restricted = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let namespaces: Api<Namespace> = Api::all(shop.client.clone());
    namespaces.patch("shop", &PatchParams::default(), &Patch::Merge(restricted)).await.unwrap();
    let deployment = Api::<Deployment>::namespaced(shop.client.clone(), "shop").get("order-log").await.unwrap();
    let template = serde_json::to_value(deployment.spec.template).unwrap();
    let pods: Api<Pod> = Api::namespaced(shop.client.clone(), "shop");
    let pod = |spec: &Value| serde_json::from_value(json!({"metadata": {"name": "pod"}, "spec": spec})).unwrap();
    let mut open = template["spec"].clone();
    open["hostNetwork"] = json!(true);
    let refused = pods.create(&PostParams::default(), &pod(&open)).await.unwrap_err();
    assert!(refused.to_string().contains("PodSecurity"), "{refused}");
    pods.create(&PostParams::default(), &pod(&template["spec"])).await.unwrap();
}
