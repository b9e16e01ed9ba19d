//! Protects that the operator may do what it does and nothing else, and that it says nothing of a Secret. It runs as a process with
//! just its rights, and the audit log of a real API server says what it asked for.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, ServiceAccount},
    events::v1::Event,
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::PolicyRule,
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use millrace_operator_api::{DeadLetterReplay, EventConsumer};
use millrace_operator_testkit::{FakePod, wait_for};
use millrace_testkit::signal::Signal;
use operator::rbac;
use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE, condition, report};

/// What stands in every Secret, and nowhere else.
const CANARY: &str = "canary-3f9c51d07ab2";

#[tokio::test]
async fn the_operator_asks_for_all_that_it_may_do_and_for_nothing_else_and_tells_no_secret() {
    let cluster = Cluster::start_audited().await;
    cluster.server.grant("operator", None, &rbac::rules()).await;
    cluster.server.grant("operator", Some("default"), &rbac::lease_rules("millrace-operator")).await;
    make_secrets(&cluster).await;
    let environment = [("LEADER_ELECTION", "true"), ("LOG_LEVEL", "debug")];
    let mut operator = cluster.process("operator", &environment).await;

    live(&cluster).await;

    operator.signal(Signal::TERM);
    assert!(operator.ended(PATIENCE).await.success(), "{}", operator.log());
    let audit = cluster.server.audit();
    let refused: Vec<_> = audit.iter().filter(|entry| entry["responseStatus"]["code"] == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let granted = rules(&rbac::rules()).union(&rules(&rbac::lease_rules("x"))).cloned().collect::<BTreeSet<_>>();
    assert!(!granted.iter().any(|rule| rule.contains('*') || rule.contains("secrets")), "{granted:?}");
    let asked: BTreeSet<_> = audit.iter().flat_map(asked).collect();
    assert_eq!(asked, granted, "left: what it asked for; right: what it may");

    let log = operator.log();
    assert!(log.contains("\"message\":\"applied\""), "the log has what the operator does: {log}");
    assert!(!log.contains(CANARY), "{log}");
    for (what, written) in everything(&cluster).await {
        assert!(!written.contains(CANARY), "{what}: {written}");
    }
}

#[tokio::test]
async fn with_roles_in_its_namespaces_only_it_works_there_and_nowhere_else() {
    let cluster = Cluster::start_audited().await;
    for namespace in ["garage", "cellar"] {
        cluster.server.make_namespace(namespace).await;
    }
    for namespace in ["shop", "garage"] {
        cluster.server.grant("operator", Some(namespace), &rbac::rules()).await;
    }
    let operator = cluster.process("operator", &[("WATCH_NAMESPACES", "shop,garage")]).await;

    let object = cluster.apply("log", json!({})).await;
    for namespace in ["cellar", "garage"] {
        let mut copy = EventConsumer::new("order-log", object.spec.clone());
        copy.metadata.namespace = Some(namespace.to_owned());
        let objects: Api<EventConsumer> = Api::namespaced(cluster.client(), namespace);
        objects.create(&PostParams::default(), &copy).await.unwrap();
    }
    for namespace in ["shop", "garage"] {
        let deployments: Api<Deployment> = Api::namespaced(cluster.client(), namespace);
        wait_for(namespace, PATIENCE, || async { deployments.get_opt("order-log").await.unwrap() }).await;
    }
    cluster.made().await;

    let audit = cluster.server.audit();
    let outside: Vec<_> = audit
        .iter()
        .filter(|entry| !matches!(entry["objectRef"]["namespace"].as_str(), Some("shop" | "garage")))
        .filter(|entry| !asked(entry).is_empty())
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
    assert!(audit.iter().all(|entry| entry["responseStatus"]["code"] != 403), "{}", operator.log());
}

/// Secrets of every kind, whose names the consumer below has.
async fn make_secrets(cluster: &Cluster) {
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), "shop");
    for (name, keys) in
        [("nats", ["username", "password"]), ("smtp", ["host", "password"]), ("redis", ["url", "ca.crt"])]
    {
        let data: serde_json::Map<_, _> = keys.iter().map(|key| ((*key).to_owned(), json!(CANARY))).collect();
        let secret = json!({"metadata": {"name": name, "annotations": {"note": CANARY}}, "stringData": data});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    }
}

/// All that happens to consumers: made, reported on, changed, broken, repaired, deleted with their durable.
async fn live(cluster: &Cluster) {
    let broker = json!({"jetStream": {
        "servers": ["nats://nats:4222"], "stream": "ORDERS", "deletionPolicy": "Delete", "authSecretRef": {"name": "nats"},
    }});
    let spec = json!({
        "broker": broker, "networkPolicy": {"mode": "Restricted"}, "replicas": 2,
        "handler": {"email": {"smtpSecretRef": {"name": "smtp"}, "from": "a@example.com"}},
        "idempotency": {"store": {"redis": {"connectionSecretRef": {"name": "redis"}}}},
    });
    cluster.apply("log", spec.clone()).await;
    cluster.apply("embedded-store", json!({})).await;
    let volumes: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client(), "shop");
    wait_for("the volume", PATIENCE, || async { volumes.get_opt("order-ledger-claims").await.unwrap() }).await;
    cluster.made().await;
    let pod = FakePod::start(cluster.client(), "shop", "order-log", report(7, 2, 3)).await;
    cluster.status_when("it is told", |status| condition(status, "DeadLetterBacklog", "True", "LettersWaiting")).await;
    // The same turn a second time is the same Event once more.
    pod.reports(report(7, 2, 0));
    cluster.status_when("it is told", |status| condition(status, "DeadLetterBacklog", "False", "NoneWaiting")).await;
    pod.reports(report(7, 2, 3));
    cluster.status_when("it is told", |status| condition(status, "DeadLetterBacklog", "True", "LettersWaiting")).await;
    pod.delete().await;

    // A rotation of what is mounted is none of the operator's business, and no reason to write.
    let secrets: Api<Secret> = Api::namespaced(cluster.client(), "shop");
    let rotated = Patch::Merge(json!({"stringData": {"password": format!("new-{CANARY}")}}));
    secrets.patch("smtp", &PatchParams::default(), &rotated).await.unwrap();

    // The policy goes when it is no longer asked for, and a change rolls the Deployment.
    let policies: Api<NetworkPolicy> = Api::namespaced(cluster.client(), "shop");
    assert!(policies.get_opt("order-log").await.unwrap().is_some());
    let mut open = spec;
    (open["networkPolicy"], open["workers"]) = (json!({}), json!(3));
    cluster.apply("log", open).await;
    let gone = || async { policies.get_opt("order-log").await.unwrap().is_none().then_some(()) };
    wait_for("the policy is gone", PATIENCE, gone).await;
    for delete in ["order-log", "order-ledger"] {
        repaired::<Deployment>(cluster, delete).await;
    }
    repaired::<ConfigMap>(cluster, "order-log").await;
    repaired::<ServiceAccount>(cluster, "order-log").await;
    repaired::<PodDisruptionBudget>(cluster, "order-log").await;

    // Its dead letters are put back.
    let replay = json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "DeadLetterReplay", "metadata": {"name": "mend"}, "spec": {"consumerRef": {"name": "order-log"}},
    });
    let replays: Api<DeadLetterReplay> = Api::namespaced(cluster.client(), "shop");
    replays.create(&PostParams::default(), &serde_json::from_value(replay).unwrap()).await.unwrap();
    let runs = || async {
        let status = serde_json::to_value(replays.get("mend").await.unwrap().status).unwrap();
        condition(&status, "Reconciling", "True", "Running").then_some(())
    };
    wait_for("the replay runs", PATIENCE, runs).await;

    // It goes, and its durable with it.
    cluster.delete("order-log").await;
    let jobs: Api<Job> = Api::namespaced(cluster.client(), "shop");
    wait_for("the Job", PATIENCE, || async { jobs.get_opt("order-log-del-durable").await.unwrap() }).await;
    let now = "2026-01-01T00:00:00Z";
    let conditions: Vec<_> = ["FailureTarget", "Failed"]
        .map(|type_| json!({"type": type_, "status": "True", "reason": "Test", "message": "m", "lastTransitionTime": now}))
        .to_vec();
    let patch = Patch::Merge(json!({"status": {"startTime": now, "conditions": conditions}}));
    jobs.patch_status("order-log-del-durable", &PatchParams::default(), &patch).await.unwrap();
    wait_for("it is gone", PATIENCE, || async { cluster.try_object("order-log").await.is_none().then_some(()) }).await;
}

/// Deletes a child and waits until another is there.
async fn repaired<K>(cluster: &Cluster, name: &str)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(cluster.client(), "shop");
    let before = api.get(name).await.unwrap().uid();
    api.delete(name, &DeleteParams::background()).await.unwrap();
    let again = || async { api.get_opt(name).await.unwrap().filter(|child| child.uid() != before) };
    wait_for(&format!("{} {name} is back", K::kind(&())), PATIENCE, again).await;
}

/// Each right as `group resource verb`.
fn rules(rules: &[PolicyRule]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                all.extend(rule.verbs.iter().map(|verb| format!("{group} {resource} {verb}")));
            }
        }
    }
    all
}

/// The rights that a request needed, in the same form. A patch that makes an object needs the right to create it too.
fn asked(entry: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &entry["objectRef"];
    if object.is_null() {
        return Vec::new();
    }
    let (resource, part) = (text(&object["resource"]), text(&object["subresource"]));
    let resource = if part.is_empty() { resource } else { format!("{resource}/{part}") };
    let made = entry["verb"] == "patch" && entry["responseStatus"]["code"] == 201;
    let verbs = std::iter::once(text(&entry["verb"])).chain(made.then(|| "create".to_owned()));
    verbs.map(|verb| format!("{} {resource} {verb}", text(&object["apiGroup"]))).collect()
}

/// All objects that the operator may have written, as they are now.
async fn everything(cluster: &Cluster) -> Vec<(String, String)> {
    let mut all = Vec::new();
    all.extend(listed::<EventConsumer>(cluster).await);
    all.extend(listed::<DeadLetterReplay>(cluster).await);
    all.extend(listed::<Deployment>(cluster).await);
    all.extend(listed::<ConfigMap>(cluster).await);
    all.extend(listed::<ServiceAccount>(cluster).await);
    all.extend(listed::<PersistentVolumeClaim>(cluster).await);
    all.extend(listed::<PodDisruptionBudget>(cluster).await);
    all.extend(listed::<Job>(cluster).await);
    all.extend(listed::<Pod>(cluster).await);
    all.extend(listed::<Event>(cluster).await);
    assert!(all.len() > 8, "{all:?}");
    all
}

async fn listed<K>(cluster: &Cluster) -> Vec<(String, String)>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let api: Api<K> = Api::namespaced(cluster.client(), "shop");
    let items = api.list(&ListParams::default()).await.unwrap().items;
    items.iter().map(|item| (K::kind(&()).into_owned(), serde_json::to_string(item).unwrap())).collect()
}
