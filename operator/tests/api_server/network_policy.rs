//! Protects what a restricted consumer may be connected to and connect to: what its object names, and nothing else.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::wait_for;
use operator::{
    build::{Settings, TraceSettings, build},
    validate::validate,
};
use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE, condition, settings};

fn policy(spec: &Value, settings: &Settings) -> Value {
    let mut all = json!({
        "broker": {"jetStream": {"servers": ["nats://nats:4222"]}}, "subjects": ["orders.placed"], "handler": {"log": {}},
        "delivery": {"deadLetter": {"subject": "dlq.x"}}, "networkPolicy": {"mode": "Restricted"},
    });
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    let object = json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "EventConsumer",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "uid"}, "spec": all,
    });
    let object: EventConsumer = serde_json::from_value(object).unwrap();
    serde_json::to_value(build(&validate(&object).unwrap(), settings).unwrap().network_policy).unwrap()
}

/// The rules for going out but that for DNS: addresses, `*` for any and `.` for the namespace, with their ports.
fn leaves(spec: &Value, settings: &Settings) -> Vec<String> {
    let policy = policy(spec, settings);
    let egress = policy["spec"]["egress"].as_array().unwrap();
    assert_eq!(egress[0], json!({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}));
    let rule = |rule: &Value| {
        let to = match &rule["to"] {
            Value::Null => "*".to_owned(),
            peers if peers[0] == json!({"podSelector": {}}) => ".".to_owned(),
            peers => peers[0]["ipBlock"]["cidr"].as_str().unwrap().to_owned(),
        };
        let ports = rule["ports"].as_array().into_iter().flatten().map(|port| port["port"].to_string());
        format!("{to}:{}", ports.collect::<Vec<_>>().join(","))
    };
    egress[1..].iter().map(rule).collect()
}

#[test]
fn a_restricted_consumer_goes_out_to_what_its_object_names_and_comes_in_on_one_port() {
    let quiet = settings();
    let traced = Settings {
        traces: TraceSettings { endpoint: "http://collector.observability:4318".to_owned(), ratio: "1".to_owned() },
        ..settings()
    };
    for (spec, settings, expected) in [
        (json!({}), &quiet, &["*:4222"][..]),
        (json!({}), &traced, &["*:4222,4318"]),
        (
            json!({"broker": {"nats": {"servers": ["nats://10.1.2.3", "nats://[fd00::1]:4333", "nats://nats.nats.svc"]}}}),
            &quiet,
            &["*:4222", "10.1.2.3/32:4222", "fd00::1/128:4333"],
        ),
        (
            json!({
                "broker": {"kafka": {"bootstrapServers": ["kafka:9093", "10.1.2.3:9092"]}},
                "idempotency": {"store": {"redis": {"connectionSecretRef": {"name": "redis"}}}},
            }),
            &quiet,
            &["*:6379,9093", "10.1.2.3/32:9092"],
        ),
        (
            json!({
                "handler": {"inventory": {}},
                "idempotency": {"mode": "Transactional", "store": {"postgres": {"connectionSecretRef": {"name": "db"}}}},
            }),
            &quiet,
            &["*:4222,5432"],
        ),
        (
            json!({"handler": {"email": {"smtpSecretRef": {"name": "smtp"}, "from": "a@example.com"}}}),
            &quiet,
            &["*:465,587,4222"],
        ),
        (json!({"handler": {"http": {"url": "https://hooks.example.com/x"}}}), &quiet, &["*:443,4222"]),
        (
            json!({"handler": {"http": {"url": "http://93.184.216.34:8080/"}}}),
            &quiet,
            &["*:4222", "93.184.216.34/32:8080"],
        ),
        (json!({"handler": {"http": {"serviceRef": {"name": "orders", "port": 80}}}}), &quiet, &["*:4222", ".:"]),
        (json!({"networkPolicy": {"mode": "Restricted", "egressPorts": [9094, 25]}}), &quiet, &["*:25,4222,9094"]),
    ] {
        assert_eq!(leaves(&spec, settings), expected, "{spec}");
    }

    let policy = policy(&json!({}), &quiet);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["ingress"], json!([{"ports": [{"port": 8080, "protocol": "TCP"}]}]));
    let selected = json!({"app.kubernetes.io/name": "consumer-runtime", "millrace.dev/consumer": "orders"});
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"], selected);
    assert_eq!(policy["metadata"]["ownerReferences"][0]["uid"], "uid");
}

#[test]
fn without_being_asked_for_there_is_no_policy() {
    assert_eq!(policy(&json!({"networkPolicy": {}}), &settings()), Value::Null);
}

#[tokio::test]
async fn a_policy_is_repaired_while_it_is_asked_for_and_one_of_somebody_else_is_left_alone() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator();
    cluster.apply("log", json!({"networkPolicy": {"mode": "Restricted"}})).await;
    let policies: Api<NetworkPolicy> = Api::namespaced(cluster.client(), "shop");
    let made = wait_for("the policy", PATIENCE, || async { policies.get_opt("order-log").await.unwrap() }).await;

    let open = Patch::Merge(json!({"spec": {"egress": [{}]}}));
    policies.patch("order-log", &PatchParams::default(), &open).await.unwrap();
    wait_for("it is repaired", PATIENCE, || async {
        (policies.get("order-log").await.unwrap().spec == made.spec).then_some(())
    })
    .await;
    cluster.apply("log", json!({})).await;
    let gone = || async { policies.get_opt("order-log").await.unwrap().is_none().then_some(()) };
    wait_for("it is gone", PATIENCE, gone).await;

    // Somebody's own, of the same name.
    let theirs = json!({"metadata": {"name": "order-log"}, "spec": {"podSelector": {}}});
    let theirs = policies.create(&PostParams::default(), &serde_json::from_value(theirs).unwrap()).await.unwrap();
    let seen = operator.reconciles();
    cluster.apply("log", json!({"workers": 3})).await;
    wait_for("it is looked at", PATIENCE, || async { (operator.reconciles() > seen).then_some(()) }).await;
    cluster.apply("log", json!({"networkPolicy": {"mode": "Restricted"}})).await;
    cluster.status_when("it is told", |status| condition(status, "Stalled", "True", "NameTaken")).await;
    assert_eq!(policies.get("order-log").await.unwrap().resource_version(), theirs.resource_version());
    operator.stop().await;
}
