//! Protects what the operator makes of an object, offline: the runtime can read it, the pods are locked down whatever the
//! object says, and the status speaks the language of kstatus.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::path::{Path, PathBuf};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::CustomResourceExt as _;
use millrace_config::{
    CircuitBreaker, Ordering, RunState,
    status::{Part, StatusReport},
};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::Generator;
use operator::{
    build::{Desired, RuntimeImages, Settings, TraceSettings, build},
    error::Error,
    status::{Seen, status},
    validate::validate,
};
use serde_json::{Value, json};

fn settings() -> Settings {
    Settings {
        images: RuntimeImages {
            nats: "millrace/consumer-runtime:test".to_owned(),
            kafka: "millrace/consumer-runtime-kafka:test".to_owned(),
        },
        traces: TraceSettings::default(),
        http_allow: "10.20.0.0/16,fd00:1::/64".parse().unwrap(),
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples")
}

fn example(name: &str) -> EventConsumer {
    let path = examples().join(format!("{name}.yaml"));
    let mut object: EventConsumer = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    object.metadata.namespace = Some("shop".to_owned());
    object.metadata.uid = Some("uid".to_owned());
    object.metadata.generation = Some(2);
    object
}

/// The examples that are consumers.
fn consumers() -> Vec<EventConsumer> {
    let paths = std::fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path());
    let consumers = paths.filter(|path| std::fs::read_to_string(path).unwrap().contains("kind: EventConsumer"));
    consumers.map(|path| example(path.file_stem().unwrap().to_str().unwrap())).collect()
}

fn desired(object: &EventConsumer) -> Desired {
    build(&validate(object).unwrap(), &settings()).unwrap()
}

fn pod_spec(object: &EventConsumer) -> Value {
    serde_json::to_value(desired(object).deployment).unwrap()["spec"]["template"]["spec"].clone()
}

#[test]
fn the_secrets_of_a_tls_connection_are_mounted_where_the_runtime_reads_them() {
    let mut object = example("log");
    let tls = json!({"caSecretRef": {"name": "nats-ca"}, "clientSecretRef": {"name": "nats-client"}});
    object.spec.broker.jet_stream.as_mut().unwrap().tls = serde_json::from_value(tls).unwrap();

    let pod = pod_spec(&object);

    let secrets: Vec<_> =
        pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["secret"]["secretName"]).collect();
    assert_eq!(secrets, [&Value::Null, &json!("nats-ca"), &json!("nats-client")]);
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let paths: Vec<_> = mounts.iter().map(|mount| mount["mountPath"].as_str().unwrap()).collect();
    assert_eq!(paths[1..], ["/etc/millrace/secrets/broker-ca", "/etc/millrace/secrets/broker-client"]);
}

#[test]
fn an_http_handler_gets_its_secrets_and_the_addresses_that_the_operator_allows() {
    let mut object = example("http");
    let http = json!({
        "url": "https://hooks.example.com/", "signing": {"secretRef": {"name": "sign"}}, "headersSecretRef": {"name": "headers"},
        "tls": {"caSecretRef": {"name": "ca"}, "clientSecretRef": {"name": "client"}},
    });
    object.spec.handler.http = serde_json::from_value(http).unwrap();

    let pod = pod_spec(&object);

    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let folders: Vec<_> = mounts.iter().skip(1).map(|mount| mount["mountPath"].as_str().unwrap()).collect();
    assert_eq!(
        folders,
        ["signing", "headers", "ca", "client"].map(|what| format!("/etc/millrace/secrets/http-{what}"))
    );
    let allows = |pod: &Value| {
        let allow = json!([{"name": "MILLRACE_HTTP_ALLOW", "value": "10.20.0.0/16,fd00:1::/64"}]);
        pod["containers"][0]["env"] == allow
    };
    assert!(allows(&pod));
    assert!(!allows(&pod_spec(&example("log"))), "it is of no use there");
}

#[test]
fn pods_are_told_where_traces_go_where_they_go_anywhere() {
    let traces = TraceSettings { endpoint: "http://collector:4318".to_owned(), ratio: "0.1".to_owned() };
    let object = example("log");

    let told = build(&validate(&object).unwrap(), &Settings { traces, ..settings() }).unwrap();

    let environment = |desired: Desired| {
        let deployment = serde_json::to_value(desired.deployment).unwrap();
        deployment["spec"]["template"]["spec"]["containers"][0]["env"].clone()
    };
    let variables = json!([
        {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"},
        {"name": "OTEL_TRACES_SAMPLER_ARG", "value": "0.1"},
    ]);
    assert_eq!((environment(told), environment(desired(&object))), (variables, Value::Null));
}

#[test]
fn kafka_has_its_image_partitions_move_once_in_a_rolling_update_and_the_status_names_the_guarantee() {
    let object = example("kafka");

    assert_eq!(pod_spec(&object)["containers"][0]["image"], "millrace/consumer-runtime-kafka:test");
    assert_eq!(pod_spec(&example("log"))["containers"][0]["image"], "millrace/consumer-runtime:test");
    let strategy = serde_json::to_value(desired(&object).deployment).unwrap()["spec"]["strategy"].clone();
    assert_eq!(strategy["rollingUpdate"], json!({"maxSurge": 0, "maxUnavailable": 1}));
    let secrets = pod_spec(&object)["volumes"].as_array().unwrap().clone();
    let names: Vec<_> = secrets.iter().skip(1).map(|volume| volume["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["broker", "broker-ca"]);
    let status = serde_json::to_value(status(&object, &Seen::New, "2026-01-01T00:00:00Z".parse().unwrap())).unwrap();
    assert_eq!((&status["broker"], &status["deliveryGuarantee"]), (&json!("Kafka"), &json!("AtLeastOnce")));
}

#[test]
fn every_example_becomes_a_configuration_that_the_runtime_reads_without_complaint() {
    for object in consumers() {
        let config_map = desired(&object).config_map;
        let config = millrace_config::load(&config_map.data.unwrap()["config.yaml"]).unwrap();
        assert_eq!(config.consumer.namespace, "shop");
        assert_eq!(config.handler, object.spec.handler);
    }
}

#[test]
fn children_belong_to_their_object_and_secrets_are_mounted_as_optional() {
    let object = example("email");
    let desired = desired(&object);
    for owners in
        [desired.deployment.metadata.owner_references.unwrap(), desired.config_map.metadata.owner_references.unwrap()]
    {
        assert_eq!((owners[0].uid.as_str(), owners[0].controller), ("uid", Some(true)));
    }

    let volumes = &pod_spec(&object)["volumes"];

    assert_eq!(volumes[1]["secret"], json!({"secretName": "smtp", "optional": true, "defaultMode": 0o440}));
}

#[test]
fn effect_and_record_in_one_transaction_make_the_guarantee_and_the_database_is_described_by_a_secret() {
    let object = example("inventory");
    let volumes = &pod_spec(&object)["volumes"];
    assert_eq!((&volumes[1]["name"], &volumes[1]["secret"]["secretName"]), (&json!("store"), &json!("shop-db")));

    for (name, guarantee) in
        [("inventory", "EffectivelyOnce"), ("analytics-postgres", "EffectivelyOnce"), ("analytics", "AtLeastOnce")]
    {
        let status = status(&example(name), &Seen::New, "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(serde_json::to_value(status).unwrap()["deliveryGuarantee"], guarantee, "{name}");
    }
}

#[test]
fn a_change_of_the_configuration_replaces_the_pods_and_scaling_does_not() {
    let template =
        |object: &EventConsumer| serde_json::to_value(desired(object).deployment).unwrap()["spec"]["template"].clone();
    let before = example("log");
    let mut scaled = before.clone();
    scaled.spec.replicas = 7;
    let mut changed = before.clone();
    changed.spec.workers = 3;

    assert_eq!(template(&before), template(&scaled));
    assert_ne!(template(&before), template(&changed));
}

#[test]
fn a_pause_replaces_all_pods_at_once_and_a_stop_takes_them_away_and_both_are_as_asked() {
    let running = example("log");
    let by_state = |state| {
        let mut object = running.clone();
        object.spec.run_state = state;
        let mut deployment = desired(&object).deployment;
        deployment.metadata.generation = Some(1);
        let replicas = deployment.spec.replicas;
        let counts = json!({"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas});
        deployment.status = serde_json::from_value(counts).unwrap();
        let seen = Seen::Applied { deployment: &deployment, pods: &[], scaled: None };
        let status = status(&object, &seen, "2026-01-01T00:00:00Z".parse().unwrap());
        let ready = status.conditions[0].clone();
        (serde_json::to_value(&deployment.spec).unwrap(), format!("{} {}", ready.status, ready.reason))
    };
    let (before, ready) = by_state(RunState::Running);
    assert_eq!(ready, "True AllReplicasReady");

    let (paused, ready) = by_state(RunState::Paused);
    assert_eq!((&paused["replicas"], ready.as_str()), (&json!(1), "True Paused"));
    assert_eq!(paused["strategy"]["rollingUpdate"], json!({"maxSurge": "100%", "maxUnavailable": "100%"}));
    assert_ne!(paused["template"], before["template"]);

    let (stopped, ready) = by_state(RunState::Stopped);
    assert_eq!((&stopped["replicas"], ready.as_str()), (&json!(0), "True Stopped"));
    assert_eq!(stopped["template"], before["template"], "a start brings back the very same pods");
}

#[test]
fn an_object_that_breaks_rules_is_refused_with_all_of_them() {
    let mut object = example("log");
    object.metadata.name = Some("a.b".to_owned());
    object.spec.workers = 0;
    object.spec.subjects = vec!["dlq.>".to_owned()];

    let Err(Error::Invalid(problems)) = validate(&object) else { panic!("it was accepted") };

    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["workers", "queueGroup", "delivery.deadLetter.subject", "metadata.name"]);
}

#[test]
fn claims_on_a_volume_belong_to_one_pod_at_a_time() {
    let mut object = example("embedded-store");
    let desired = desired(&object);
    let volume = serde_json::to_value(desired.claims_volume.unwrap()).unwrap();
    assert_eq!(volume["metadata"]["name"], "order-ledger-claims");
    assert_eq!(volume["metadata"]["ownerReferences"][0]["uid"], "uid");
    assert_eq!(volume["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(volume["spec"]["resources"]["requests"]["storage"], "1Gi");
    let deployment = serde_json::to_value(desired.deployment).unwrap();
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    let pod = pod_spec(&object);
    let volumes = pod["volumes"].as_array().unwrap();
    assert_eq!(volumes.last().unwrap()["persistentVolumeClaim"]["claimName"], "order-ledger-claims");
    let container = &pod["containers"][0];
    let mount = container["volumeMounts"].as_array().unwrap().last().unwrap();
    assert_eq!(mount, &json!({"name": "data", "mountPath": "/var/lib/millrace"}));
    assert!(container["args"].as_array().unwrap().contains(&json!("--data-dir=/var/lib/millrace")));

    object.spec.replicas = 2;
    let Err(Error::Invalid(problems)) = validate(&object) else { panic!("it was accepted") };
    assert_eq!(problems[0].field, "replicas");
}

#[test]
fn the_secret_of_a_redis_store_is_mounted_where_the_runtime_reads_it() {
    let pod = pod_spec(&example("redis-store"));

    assert_eq!(pod["volumes"][1]["secret"]["secretName"], "redis");
    assert_eq!(pod["containers"][0]["volumeMounts"][1]["mountPath"], "/etc/millrace/secrets/store");
}

fn conditions(object: &EventConsumer, seen: &Seen<'_>) -> Value {
    let status = serde_json::to_value(status(object, seen, "2026-01-01T00:00:00Z".parse().unwrap())).unwrap();
    let conditions = status["conditions"].as_array().unwrap();
    conditions
        .iter()
        .map(|condition| (condition["type"].as_str().unwrap().to_owned(), condition["status"].clone()))
        .collect()
}

#[test]
fn the_first_visit_says_unknown_and_reconciling_and_a_bad_spec_says_stalled() {
    let object = example("log");
    let first = conditions(&object, &Seen::New);
    assert_eq!(
        (&first["Ready"], &first["Reconciling"], &first["Stalled"]),
        (&json!("Unknown"), &json!("True"), &json!("False"))
    );

    let invalid = conditions(&object, &Seen::Failed(&Error::Invalid(Vec::new())));
    assert_eq!(
        (&invalid["Ready"], &invalid["Reconciling"], &invalid["Stalled"]),
        (&json!("False"), &json!("False"), &json!("True"))
    );
}

fn report(reason: &str) -> StatusReport {
    serde_json::from_value(json!({
        "version": "0", "phase": "Starting", "deliveryGuarantee": "AtLeastOnce", "lag": {"inFlight": 0}, "totals": {},
        "problems": [{"part": "Broker", "reason": reason, "message": "m"}],
    }))
    .unwrap()
}

#[test]
fn what_a_pod_reports_decides_between_waiting_and_being_stalled() {
    let object = example("log");
    for (reason, stalled) in [("Unreachable", "False"), ("StreamNotFound", "True")] {
        let pods = [(Pod::default(), Some(report(reason)))];
        let seen =
            conditions(&object, &Seen::Applied { deployment: &Deployment::default(), pods: &pods, scaled: None });
        assert_eq!(
            (&seen["Ready"], &seen["Stalled"], &seen["BrokerReady"]),
            (&json!("False"), &json!(stalled), &json!("False"))
        );
        assert_eq!(seen["HandlerReady"], "True");
    }
}

#[test]
fn an_open_circuit_is_a_condition_where_there_is_a_circuit_breaker() {
    let mut object = example("email");
    let mut open = report("CircuitOpen");
    open.problems[0].part = Part::Circuit;
    let pods = [(Pod::default(), Some(open))];
    let seen = |object: &EventConsumer, pods: &[_]| {
        conditions(object, &Seen::Applied { deployment: &Deployment::default(), pods, scaled: None })
    };
    assert_eq!(seen(&object, &pods).get("CircuitOpen"), None);

    object.spec.delivery.circuit_breaker = Some(CircuitBreaker::default());

    let told = seen(&object, &pods);
    assert_eq!(
        (&told["CircuitOpen"], &told["Ready"], &told["Stalled"]),
        (&json!("True"), &json!("False"), &json!("False"))
    );
    assert_eq!(seen(&object, &[(Pod::default(), Some(report("Unreachable")))])["CircuitOpen"], "False");
    assert_eq!(seen(&object, &[])["CircuitOpen"], "Unknown");
}

#[test]
fn what_weakens_the_promise_is_a_condition_and_keeps_nothing_from_being_ready() {
    let object = example("redis-store");
    let degraded = |notes: Value| {
        let mut told = serde_json::to_value(report("Unreachable")).unwrap();
        (told["problems"], told["notes"]) = (json!([]), notes);
        let pods = [(Pod::default(), Some(serde_json::from_value(told).unwrap()))];
        let seen = Seen::Applied { deployment: &Deployment::default(), pods: &pods, scaled: None };
        let status = status(&object, &seen, "2026-01-01T00:00:00Z".parse().unwrap());
        let condition =
            status.conditions.into_iter().find(|condition| condition.type_ == "DurabilityDegraded").unwrap();
        (condition.status, condition.reason, condition.message)
    };
    let notes = json!([
        {"reason": "RetentionTooShort", "message": "a"}, {"reason": "StoreNotDurable", "message": "b"},
    ]);

    assert_eq!(degraded(notes), ("True".to_owned(), "RetentionTooShort".to_owned(), "a; b".to_owned()));
    assert_eq!(degraded(json!([])).0, "False");
    assert_eq!(conditions(&object, &Seen::New)["DurabilityDegraded"], "Unknown");
}

#[test]
fn a_deployment_that_has_just_been_written_is_not_ready_by_its_old_status() {
    let object = example("log");
    let deployment = |observed: i64| -> Deployment {
        let counts = json!({"observedGeneration": observed, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1});
        let mut deployment = desired(&object).deployment;
        deployment.metadata.generation = Some(2);
        deployment.status = serde_json::from_value(counts).unwrap();
        deployment
    };
    let ready = |deployment: &Deployment| {
        conditions(&object, &Seen::Applied { deployment, pods: &[], scaled: None })["Ready"].clone()
    };

    assert_eq!(ready(&deployment(1)), "False");
    assert_eq!(ready(&deployment(2)), "True");
}

#[test]
fn a_status_that_says_the_same_keeps_the_times_of_its_transitions() {
    let mut object = example("log");
    let pods = [(Pod::default(), Some(report("Unreachable")))];
    let seen = Seen::Applied { deployment: &Deployment::default(), pods: &pods, scaled: None };
    object.status = Some(status(&object, &seen, "2026-01-01T00:00:00Z".parse().unwrap()));

    let later = status(&object, &seen, "2026-01-02T00:00:00Z".parse().unwrap());

    assert_eq!(object.status, Some(later), "so that nothing is written");
}

/// Objects that are checked in every run; `OPERATOR_OBJECTS` asks for another number (`make operator-objects`).
const OBJECTS: usize = 2000;

/// The security fields of every pod.
fn assert_locked_down(pod: &Value, what: &Value) {
    assert_eq!(
        pod["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        }),
        "{what}"
    );
    assert_eq!((&pod["automountServiceAccountToken"], &pod["enableServiceLinks"]), (&json!(false), &json!(false)));
    assert_eq!(pod["serviceAccountName"], "orders", "{what}");
    for field in
        ["hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers", "ephemeralContainers", "runtimeClassName"]
    {
        assert!(pod.get(field).is_none(), "{field}: {what}");
    }
    let [container] = pod["containers"].as_array().unwrap().as_slice() else { panic!("{what}") };
    assert_eq!(
        container["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        }),
        "{what}"
    );
    let images = ["millrace/consumer-runtime:test", "millrace/consumer-runtime-kafka:test"];
    assert!(images.iter().any(|image| container["image"] == *image), "{what}");
    let arguments = container["args"].as_array().unwrap();
    assert_eq!(arguments[0], "--config=/etc/millrace/config.yaml", "{what}");
    assert!(container.get("command").is_none() && container.get("envFrom").is_none(), "{what}");
    for variable in container["env"].as_array().into_iter().flatten() {
        assert_eq!(variable["name"], "MILLRACE_HTTP_ALLOW", "{what}");
    }
    assert!(container["resources"]["limits"]["memory"].is_string(), "{what}");
    for volume in pod["volumes"].as_array().unwrap() {
        let kinds: Vec<_> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        assert!(
            matches!(kinds[..], [kind] if ["configMap", "persistentVolumeClaim", "secret"].contains(&kind.as_str())),
            "{what}"
        );
    }
}

#[test]
fn no_object_changes_the_security_of_its_pods_or_takes_their_labels() {
    let definition = serde_json::to_value(EventConsumer::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let examples: Vec<_> = consumers().iter().map(|object| serde_json::to_value(&object.spec).unwrap()).collect();
    let wanted = std::env::var("OPERATOR_OBJECTS").map_or(OBJECTS, |count| count.parse().unwrap());
    let mut generator = Generator::new(3);
    let (mut built, mut refused) = (0, 0);
    while built < wanted {
        let mut spec = examples[generator.below(examples.len())].clone();
        (0..=generator.below(6)).for_each(|_| generator.change(schema, &mut spec));
        spec["template"]["metadata"]["labels"]["millrace.dev/consumer"] = json!("somebody-else");
        // What the schema allows can always be read.
        let object: EventConsumer = serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "EventConsumer",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "uid"}, "spec": spec,
        }))
        .unwrap_or_else(|error| panic!("{error}: {spec}"));
        let Ok(valid) = validate(&object) else {
            refused += 1;
            assert!(refused < 20 * wanted, "hardly any object is valid");
            continue;
        };
        built += 1;
        let desired = build(&valid, &settings()).unwrap();
        let template = serde_json::to_value(&desired.deployment).unwrap()["spec"]["template"].clone();
        assert_eq!(template["metadata"]["labels"]["millrace.dev/consumer"], "orders", "{spec}");
        assert_locked_down(&template["spec"], &spec);
        // The runtime reads what becomes of it.
        let config = &desired.config_map.data.unwrap()["config.yaml"];
        millrace_config::load(config).unwrap_or_else(|error| panic!("{error}: {spec}"));
    }
    println!("objects: built={built} refused={refused}");
}

#[test]
fn where_two_pods_at_once_would_break_the_order_the_old_one_ends_first() {
    let mut object = example("nats-core");
    let strategy = |object: &EventConsumer| desired(object).deployment.spec.strategy.unwrap().type_.unwrap();
    assert_eq!(strategy(&object), "RollingUpdate");

    object.spec.ordering = Ordering::Key;
    object.spec.ordering_key = serde_json::from_value(json!({"field": "order_id"})).unwrap();
    object.spec.replicas = 1;

    assert_eq!(strategy(&object), "Recreate");
    object.spec.replicas = 2;
    let Err(Error::Invalid(problems)) = validate(&object) else { panic!("two replicas are accepted") };
    assert_eq!(problems[0].field, "ordering");
}

#[test]
fn a_replay_is_rendered_with_its_consumer_and_the_example_can_be_carried_out() {
    let text = |name: &str| std::fs::read_to_string(examples().join(format!("{name}.yaml"))).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("objects.yaml");
    std::fs::write(&file, format!("{}---\n{}", text("dead-letter-replay"), text("email"))).unwrap();

    let rendered = operator::render::render(&file, &settings()).unwrap();

    let documents: Vec<Value> = serde_yaml::Deserializer::from_str(&rendered)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect();
    let job = documents.iter().find(|document| document["kind"] == "Job").unwrap();
    assert_eq!(job["metadata"]["name"], "mail-server-was-down-replay");
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].to_string();
    assert!(arguments.contains("--from=2026-11-20T00:00:00Z"), "{arguments}");
    // Restarts of the container, and nothing else, keep the journal: as many as an event may have that kills it, and some.
    assert_eq!((&job["spec"]["backoffLimit"], &container["livenessProbe"]), (&json!(11), &Value::Null));

    std::fs::write(&file, text("dead-letter-replay")).unwrap();
    let refused = operator::render::render(&file, &settings()).unwrap_err().to_string();
    assert!(refused.contains("order-emails") && refused.contains("same file"), "{refused}");
}
