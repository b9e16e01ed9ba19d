//! The operator on a real cluster: objects come, change, go wrong, and go.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::time::{Duration, Instant};

use millrace_e2e::{cluster::Cluster, shop::Shop, wait_for};
use serde_json::Value;

/// The time in which a fault must be a condition.
const TOLD_WITHIN: Duration = Duration::from_secs(15);

fn consumer(name: &str, spec: &str) -> String {
    format!("apiVersion: millrace.dev/v1alpha1\nkind: EventConsumer\nmetadata: {{name: {name}}}\nspec:\n{spec}\n")
}

fn spec(broker: &str, rest: &str) -> String {
    let dead_letter = if rest.contains("delivery") { "" } else { "\n  delivery: {deadLetter: {subject: dlq.x}}" };
    let handler = if rest.contains("handler") { "" } else { "\n  handler: {log: {}}" };
    let subjects = if rest.contains("subjects") { "" } else { "\n  subjects: [orders.placed]" };
    format!("  broker: {broker}{subjects}{handler}{dead_letter}\n{rest}")
}

const JETSTREAM: &str = "{jetStream: {servers: ['nats://nats:4222'], stream: ORDERS}}";

#[test]
fn invalid_specs_are_refused_with_the_field_and_the_rule() {
    let cluster = Cluster::with_operator();
    // The cases that the rules are tested with offline, too.
    for file in ["refused.yaml", "refused-replay.yaml"] {
        let cases = std::fs::read_to_string(cluster.path("operator/api/tests").join(file)).unwrap();
        let cases: Value = serde_yaml::from_str(&cases).unwrap();
        for case in ["rules", "schema"].iter().flat_map(|list| cases[list].as_array().unwrap()) {
            let mut spec = cases["valid"].clone();
            for (field, value) in case["with"].as_object().into_iter().flatten() {
                spec[field] = value.clone();
            }
            let object = serde_json::json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": cases["kind"],
                "metadata": {"name": case["name"].as_str().unwrap_or("invalid")}, "spec": spec,
            });
            let refused = cluster.apply("default", &object.to_string()).unwrap_err();
            assert!(refused.contains(case["says"].as_str().unwrap()), "{case}: {refused}");
        }
    }
}

#[test]
fn a_consumer_is_applied_changed_repaired_and_deleted_and_costs_nothing_in_quiet() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-operator");
    shop.start_producer("producer", &["--count=10"]);
    shop.apply_example("log", |yaml| yaml);
    shop.wait_ready("order-log");
    let get = |what: &[&str]| shop.cluster.get(&shop.namespace, what);

    // What cannot be changed is refused.
    for change in [
        "queueGroup: other",
        "broker: {jetStream: null, nats: {servers: ['nats://nats:4222']}}",
        "broker: {jetStream: {stream: OTHER}}",
    ] {
        let patch = format!("spec: {{{change}}}");
        let arguments = ["-n", &shop.namespace, "patch", "evc", "order-log", "--type=merge", "-p", &patch];
        let refused = shop.cluster.try_kubectl(&arguments, "").unwrap_err();
        assert!(refused.contains("cannot"), "{refused}");
    }

    // A change of the configuration rolls the pods once.
    let revision = || {
        get(&["deployment", "order-log"]).unwrap()["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
            .clone()
    };
    assert_eq!(revision(), "1");
    shop.cluster.kubectl(&[
        "-n",
        &shop.namespace,
        "patch",
        "evc",
        "order-log",
        "--type=merge",
        "-p",
        "spec: {workers: 4}",
    ]);
    wait_for("the pods are replaced", Duration::from_secs(30), || (revision() == "2").then_some(()));
    shop.wait_ready("order-log");
    shop.cluster.kubectl(&["-n", &shop.namespace, "scale", "evc", "order-log", "--replicas=2"]);
    wait_for("two replicas take events", Duration::from_secs(60), || {
        (get(&["evc", "order-log"])?["status"]["readyReplicas"] == 2).then_some(())
    });
    shop.wait_ready("order-log");
    assert_eq!(revision(), "2", "scaling replaces no pod");

    // A child that is deleted is back within ten seconds.
    shop.cluster.kubectl(&["-n", &shop.namespace, "delete", "deployment", "order-log", "--wait"]);
    wait_for("the Deployment is back", Duration::from_secs(10), || get(&["deployment", "order-log"]));
    shop.wait_ready("order-log");

    // A minute of quiet: no write, seen in the versions of everything that the operator writes.
    // Other controllers write the status of Deployments: of those the generation counts.
    let versions = || {
        [
            ("evc/order-log", "resourceVersion"),
            ("configmap/order-log", "resourceVersion"),
            ("serviceaccount/order-log", "resourceVersion"),
            ("deployment/order-log", "generation"),
        ]
        .map(|(what, version)| get(&[what]).unwrap()["metadata"][version].clone())
    };
    // What the deletion stirred up comes to rest first: nothing changes for longer than a settled consumer is asked again.
    let before = wait_for("it comes to rest", Duration::from_secs(90), || {
        let seen = versions();
        std::thread::sleep(Duration::from_secs(12));
        (versions() == seen).then_some(seen)
    });
    let audit = shop.cluster.audit();
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(60) {
        assert_eq!(versions(), before, "something was written after {:?}", since.elapsed());
        std::thread::sleep(Duration::from_secs(2));
    }
    // Where the API server keeps an audit log it says so too, of whatever the operator might write.
    if let Some(audit) = audit {
        let writes = audit.writes("system:serviceaccount:millrace-system:", &shop.namespace);
        assert_eq!(writes, [""; 0]);
    }

    shop.cluster.kubectl(&["-n", &shop.namespace, "delete", "evc", "order-log", "--wait"]);
    wait_for("all children are gone", Duration::from_secs(60), || {
        let children = get(&["deployments,configmaps,serviceaccounts,pdb", "-l", "millrace.dev/consumer=order-log"])?;
        children["items"].as_array()?.is_empty().then_some(())
    });
    shop.close();
}

#[test]
fn an_operator_that_is_killed_again_and_again_ends_where_an_undisturbed_one_does() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-killed");
    let cluster = &shop.cluster;
    shop.start_producer("producer", &["--count=10"]);
    for number in 0..8 {
        let replaced = format!("order-log-{number}");
        shop.apply_example("log", |yaml| yaml.replace("order-log", &replaced));
        // Each kill finds it at another place of its work.
        let pods = cluster.get("millrace-system", &["pods", "-l", "app.kubernetes.io/name=millrace-operator"]).unwrap();
        for pod in pods["items"].as_array().unwrap() {
            cluster.run_script("deploy/cluster/kill", [pod["metadata"]["uid"].as_str().unwrap()]);
        }
    }
    // The kubelet backs off from a container that is killed so often; a new pod starts at once.
    cluster.kubectl(&["-n", "millrace-system", "rollout", "restart", "deployment/millrace-operator"]);
    cluster.kubectl(&["-n", "millrace-system", "rollout", "status", "deployment/millrace-operator", "--timeout=120s"]);
    for number in 0..8 {
        let name = format!("order-log-{number}");
        shop.wait_ready(&name);
        let deployment = cluster.get(&shop.namespace, &["deployment", &name]).unwrap();
        assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1", "{name}");
    }
    shop.close();
}

#[test]
fn the_chart_is_upgraded_and_uninstalled_without_touching_what_it_does_not_own() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-chart");
    let cluster = &shop.cluster;
    shop.start_producer("producer", &["--count=10"]);
    shop.apply_example("log", |yaml| yaml);
    shop.wait_ready("order-log");
    let pod = || shop.pods("order-log")[0]["metadata"]["uid"].clone();
    let before = pod();

    let chart = cluster.path("charts/millrace");
    let chart = chart.to_str().unwrap();
    let upgrade = ["upgrade", "millrace", chart, "-n", "millrace-system", "--set", "logLevel=debug", "--wait"];
    cluster.helm(&upgrade);
    assert_eq!(pod(), before, "an upgrade of the operator replaces no consumer");

    cluster.helm(&["uninstall", "millrace", "-n", "millrace-system", "--wait"]);
    assert_eq!(pod(), before, "consumers go on without an operator");
    assert!(cluster.get(&shop.namespace, &["evc", "order-log"]).is_some(), "the definition is kept");

    cluster.install();
    shop.wait_ready("order-log");
    assert_eq!(pod(), before);
    shop.close();
}

#[test]
fn what_keeps_a_consumer_from_working_is_a_condition_with_its_reason() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-faults");
    shop.start_producer("producer", &["--count=10"]);
    shop.producer_summary("producer", Duration::from_secs(60));
    // Before any consumer, because it waits for all Deployments.
    shop.apply_manifest("secured-broker");
    let apply = |name: &str, broker: &str, rest: &str| {
        shop.cluster.apply(&shop.namespace, &consumer(name, &spec(broker, rest))).unwrap();
    };

    apply("wrong-url", "{jetStream: {servers: ['nats://nowhere:4222'], stream: ORDERS}}", "");
    apply("no-stream", "{jetStream: {servers: ['nats://nats:4222'], stream: NOPE}}", "");
    apply("no-dlq", JETSTREAM, "  delivery: {deadLetter: {subject: nowhere}}");
    let with_secret = "{jetStream: {servers: ['nats://nats:4222'], stream: ORDERS, authSecretRef: {name: creds}}}";
    apply("no-secret", with_secret, "");
    apply("no-login", "{jetStream: {servers: ['nats://secured:4222'], authSecretRef: {name: wrong}}}", "");
    let memory = "  idempotency: {store: {memory: {}}}";
    apply("no-kafka", "{kafka: {bootstrapServers: ['nowhere:9092']}}", memory);
    apply("no-smtp", JETSTREAM, "  handler: {email: {smtpSecretRef: {name: none}, from: 'a@b.c'}}");

    for (name, part, reason, words) in [
        ("wrong-url", "BrokerReady", "Unreachable", "nowhere:4222"),
        ("no-stream", "BrokerReady", "StreamNotFound", "NOPE"),
        ("no-dlq", "BrokerReady", "DeadLetterStreamNotFound", "nowhere"),
        ("no-secret", "BrokerReady", "SecretMissing", "creds"),
        ("no-login", "BrokerReady", "Unauthorized", "wrong"),
        ("no-kafka", "BrokerReady", "Unreachable", "nowhere:9092"),
        ("no-smtp", "HandlerReady", "SecretMissing", "none"),
    ] {
        let message = shop.wait_reason(name, part, reason, TOLD_WITHIN);
        assert!(message.contains(words), "{name}: {message}");
        let described = shop.cluster.kubectl(&["-n", &shop.namespace, "describe", "evc", name]);
        assert!(described.contains(reason), "{described}");
        for pod in shop.pods(name) {
            assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{name} has no crash loop");
        }
    }
    shop.close();
}
