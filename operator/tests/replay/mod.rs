//! Protects `DeadLetterReplay` on a real API server: one Job with the consumer's own Secrets, counts that are what its pods
//! said, and nothing carried out twice. Nobody runs Jobs here: what becomes of their pods is told by the test.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod, events::v1::Event};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use millrace_operator_api::DeadLetterReplay;
use millrace_operator_testkit::wait_for;
use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE, condition};

const NOW: &str = "2026-01-01T00:00:00Z";

/// A cluster on which replays are made.
struct Replays {
    cluster: Cluster,
}

impl Replays {
    async fn start() -> Self {
        Self { cluster: Cluster::start().await }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client(), "shop")
    }

    /// A consumer with a Secret.
    async fn apply_consumer(&self) {
        let broker = json!({"jetStream": {"servers": ["nats://nats:4222"], "stream": "ORDERS", "authSecretRef": {"name": "nats-creds"}}});
        self.cluster.apply("log", json!({"broker": broker})).await;
    }

    async fn create(&self, name: &str, spec: &Value) {
        let replay = json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "DeadLetterReplay", "metadata": {"name": name}, "spec": spec,
        });
        let replay = serde_json::from_value(replay).unwrap();
        self.api::<DeadLetterReplay>().create(&PostParams::default(), &replay).await.unwrap();
    }

    async fn status_when(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let (api, wanted) = (&self.api::<DeadLetterReplay>(), &wanted);
        wait_for(what, PATIENCE, || async move {
            let status = serde_json::to_value(api.get(name).await.ok()?.status).ok()?;
            wanted(&status).then_some(status)
        })
        .await
    }

    async fn job(&self, replay: &str) -> Job {
        let (api, name) = (&self.api::<Job>(), &format!("{replay}-replay"));
        wait_for("its Job is made", PATIENCE, || async move { api.get_opt(name).await.unwrap() }).await
    }

    /// A pod of a Job, with this status of its container.
    async fn pod(&self, job: &Job, name: &str, phase: &str, container: Value) {
        let pod = json!({
            "metadata": {"name": name, "labels": {"batch.kubernetes.io/controller-uid": job.uid()}},
            "spec": {"containers": [{"name": "consumer-runtime", "image": "none"}]},
        });
        let api = self.api::<Pod>();
        if api.get_opt(name).await.unwrap().is_none() {
            api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        }
        let mut container = container;
        for (field, value) in [
            ("name", json!("consumer-runtime")),
            ("image", json!("none")),
            ("imageID", json!("")),
            ("ready", json!(false)),
            ("restartCount", json!(1)),
        ] {
            container[field] = value;
        }
        let status = json!({"status": {"phase": phase, "containerStatuses": [container]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn end(&self, job: &Job, conditions: [&str; 2], counts: Value) {
        let conditions = conditions.map(|type_| {
            json!({"type": type_, "status": "True", "reason": "Test", "message": "the test says so", "lastTransitionTime": NOW})
        });
        let mut status = json!({"startTime": NOW, "conditions": conditions});
        if status["conditions"][1]["type"] == "Complete" {
            status["completionTime"] = json!(NOW);
        }
        for (name, count) in counts.as_object().unwrap() {
            status[name] = count.clone();
        }
        let patch = Patch::Merge(json!({"status": status}));
        self.api::<Job>().patch_status(&job.name_any(), &PatchParams::default(), &patch).await.unwrap();
    }

    /// The reasons of the Events about a replay.
    async fn events(&self, name: &str) -> Vec<(String, String)> {
        let events = self.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let of_it = |event: &Event| event.regarding.as_ref().is_some_and(|about| about.name.as_deref() == Some(name));
        let told = events.into_iter().filter(of_it);
        told.map(|event| (event.reason.unwrap_or_default(), event.type_.unwrap_or_default())).collect()
    }
}

fn terminated(report: &str) -> Value {
    json!({"terminated": {"exitCode": 1, "message": report}})
}

#[tokio::test]
async fn a_replay_waits_for_its_consumer_and_its_job_has_the_secrets_of_that_and_what_was_asked_for() {
    let replays = Replays::start().await;
    let operator = replays.cluster.operator();
    let filter =
        json!({"reasons": ["RetriesExhausted"], "ids": ["$(HOME)", "--dry-run"], "fromTime": "2026-01-01T00:00:00Z"});
    replays.create("mend", &json!({"consumerRef": {"name": "order-log"}, "filter": filter, "maxMessages": 7})).await;
    let blocked = |status: &Value| condition(status, "Stalled", "True", "ConsumerNotFound");
    replays.status_when("mend", "there is no consumer", blocked).await;
    let told = ("ConsumerNotFound".to_owned(), "Warning".to_owned());
    wait_for("it is an Event", PATIENCE, || async { replays.events("mend").await.contains(&told).then_some(()) }).await;

    replays.apply_consumer().await;
    let job = replays.job("mend").await;

    // One container of the runtime, as locked down as those of the consumer, with its Secret and its configuration.
    let replay = replays.api::<DeadLetterReplay>().get("mend").await.unwrap();
    let owner = &job.owner_references()[0];
    assert_eq!((Some(&owner.uid), owner.controller), (replay.metadata.uid.as_ref(), Some(true)));
    let pod = serde_json::to_value(&job).unwrap()["spec"]["template"].clone();
    assert!(pod["metadata"]["labels"]["millrace.dev/consumer"].is_null(), "it is no pod of the consumer");
    let container = &pod["spec"]["containers"][0];
    let arguments: Vec<_> = container["args"].as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect();
    for argument in [
        "redrive",
        "--to=handler",
        "--reason=RetriesExhausted",
        "--event-id=$$(HOME)",
        "--event-id=--dry-run",
        "--from=2026-01-01T00:00:00Z",
        "--max-messages=7",
        "--per-second=50",
        "--max-replays=3",
        "--serve",
        "--report=/dev/termination-log",
        "--journal=/var/lib/millrace-replay/journal",
    ] {
        assert!(arguments.contains(&argument), "{argument}: {arguments:?}");
    }
    assert_eq!(
        (&pod["spec"]["restartPolicy"], &container["securityContext"]["readOnlyRootFilesystem"]),
        (&json!("OnFailure"), &json!(true))
    );
    let mounts: Vec<_> =
        container["volumeMounts"].as_array().unwrap().iter().map(|mount| &mount["mountPath"]).collect();
    assert_eq!(mounts, ["/etc/millrace/config.yaml", "/etc/millrace/secrets/broker", "/var/lib/millrace-replay"]);

    operator.stop().await;
}

#[tokio::test]
async fn a_replay_is_carried_out_once_and_counts_what_all_pods_of_its_job_did() {
    let replays = Replays::start().await;
    let operator = replays.cluster.operator();
    replays.apply_consumer().await;
    replays.create("mend", &json!({"consumerRef": {"name": "order-log"}})).await;
    let job = replays.job("mend").await;

    // The first pod was evicted in the middle; the container of the second has died once and is about to start again.
    replays
        .pod(&job, "first", "Failed", json!({"state": terminated(r#"{"matched":5,"succeeded":2,"failed":1}"#)}))
        .await;
    let waits = json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": terminated(r#"{"matched":2,"succeeded":1}"#)});
    replays.pod(&job, "second", "Running", waits).await;
    let status = replays.status_when("mend", "both are counted", |status| status["succeeded"] == 3).await;
    assert_eq!((&status["matched"], &status["failed"], &status["replayed"]), (&json!(5), &json!(1), &json!(4)));
    assert!(condition(&status, "Reconciling", "True", "CrashLoopBackOff"), "{status}");

    // Another operator goes on from there.
    operator.stop().await;
    let operator = replays.cluster.operator();
    replays
        .pod(
            &job,
            "second",
            "Succeeded",
            json!({"state": terminated(r#"{"matched":2,"succeeded":1,"parked":1,"ended":true}"#)}),
        )
        .await;
    replays.end(&job, ["SuccessCriteriaMet", "Complete"], json!({"succeeded": 1, "failed": 1})).await;
    let ended = |status: &Value| condition(status, "Ready", "True", "CompleteWithFailures");
    let status = replays.status_when("mend", "it has ended", ended).await;
    let counts =
        ["matched", "replayed", "succeeded", "failed", "parked", "unreadable"].map(|name| status[name].as_i64());
    assert_eq!(counts, [5, 4, 3, 1, 1, 0].map(Some), "{status}");
    assert_eq!(
        (&status["completionTime"], &status["observedGeneration"], &status["job"]),
        (&json!(NOW), &json!(1), &json!("mend-replay"))
    );
    assert!(
        condition(&status, "Reconciling", "False", "CompleteWithFailures")
            && condition(&status, "Stalled", "False", "CompleteWithFailures")
    );
    assert!(!status.to_string().contains("vanished"), "every pod has said its last word: {status}");
    let told = replays.events("mend").await;
    for reason in [("Running", "Normal"), ("CrashLoopBackOff", "Warning"), ("CompleteWithFailures", "Warning")] {
        assert!(told.contains(&(reason.0.to_owned(), reason.1.to_owned())), "{reason:?}: {told:?}");
    }

    // Without its Job it has ended all the same. The next replay shows that the operator has been there.
    replays.api::<Job>().delete("mend-replay", &DeleteParams::background()).await.unwrap();
    operator.stop().await;
    let operator = replays.cluster.operator();
    replays.create("list", &json!({"consumerRef": {"name": "order-log"}, "dryRun": "All"})).await;
    let job = replays.job("list").await;
    assert!(replays.api::<Job>().get_opt("mend-replay").await.unwrap().is_none(), "it is not carried out again");

    // A dry run lists.
    let letters = r#"{"matched":2,"parked":1,"ended":true,"letters":[{"id":"a","reason":"Expired","origin":"jetstream://ORDERS/orders.placed#1","replays":0}]}"#;
    replays.pod(&job, "lister", "Succeeded", json!({"state": terminated(letters)})).await;
    replays.end(&job, ["SuccessCriteriaMet", "Complete"], json!({"succeeded": 1})).await;
    let status =
        replays.status_when("list", "it has ended", |status| condition(status, "Ready", "True", "Complete")).await;
    assert_eq!(
        (&status["letters"][0]["id"], &status["matched"], &status["replayed"]),
        (&json!("a"), &json!(2), &json!(0))
    );
    assert!(status["conditions"][0]["message"].as_str().unwrap().contains("kubectl logs job/list-replay"), "{status}");
    operator.stop().await;
}

#[tokio::test]
async fn a_replay_that_cannot_be_says_why_and_takes_no_job_of_somebody_else() {
    let replays = Replays::start().await;
    let operator = replays.cluster.operator();
    replays.apply_consumer().await;
    let embedded = json!({"replicas": 1, "idempotency": {"store": {"embedded": {"volumeClaim": {"size": "64Mi"}}}}});
    replays.cluster.apply("log", embedded).await;
    let of_it = json!({"consumerRef": {"name": "order-log"}});

    replays.create("open-claims", &of_it).await;
    let refused = |status: &Value| condition(status, "Stalled", "True", "NotPossible");
    let status = replays.status_when("open-claims", "it is not possible", refused).await;
    assert!(status.to_string().contains("use Source"), "{status}");

    // A Job of the same name, first of nobody and then of an earlier replay.
    let foreign = json!({
        "metadata": {"name": "taken-replay"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "none"}]}}},
    });
    let jobs = replays.api::<Job>();
    jobs.create(&PostParams::default(), &serde_json::from_value(foreign.clone()).unwrap()).await.unwrap();
    let to_source = json!({"consumerRef": {"name": "order-log"}, "target": "Source"});
    replays.create("taken", &to_source).await;
    replays.status_when("taken", "the name is taken", |status| condition(status, "Stalled", "True", "NameTaken")).await;
    jobs.delete("taken-replay", &DeleteParams::background()).await.unwrap();

    let mut earlier = foreign;
    earlier["metadata"] = json!({"name": "again-replay", "ownerReferences": [
        {"apiVersion": "millrace.dev/v1alpha1", "kind": "DeadLetterReplay", "name": "again", "uid": "of-the-earlier-one"}]});
    jobs.create(&PostParams::default(), &serde_json::from_value(earlier).unwrap()).await.unwrap();
    replays.create("again", &to_source).await;
    replays.status_when("again", "it waits", |status| condition(status, "Reconciling", "True", "EarlierJob")).await;
    jobs.delete("again-replay", &DeleteParams::background()).await.unwrap();
    replays.status_when("again", "it runs", |status| condition(status, "Reconciling", "True", "Running")).await;

    // A Job that gives up is told, with what its pods had done; a pod that vanished is not counted in silence.
    let job = replays.job("again").await;
    replays.pod(&job, "gone", "Running", json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": terminated(r#"{"matched":3,"succeeded":2}"#)})).await;
    replays.status_when("again", "it is counted", |status| status["succeeded"] == 2).await;
    replays.api::<Pod>().delete("gone", &DeleteParams::default().grace_period(0)).await.unwrap();
    replays.end(&job, ["FailureTarget", "Failed"], json!({"failed": 1})).await;
    let status =
        replays.status_when("again", "it has failed", |status| condition(status, "Stalled", "True", "Failed")).await;
    assert_eq!(
        (&status["succeeded"], &status["matched"], status["completionTime"].is_null()),
        (&json!(2), &json!(3), false)
    );
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("the test says so") && message.contains("1 pods vanished"), "{message}");
    operator.stop().await;
}
