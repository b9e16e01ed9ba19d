//! Objects made up from our own schema: whatever is wrong with one is told at admission, and whatever was done to one, taking
//! it back leads to where it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, CustomResourceExt as _, Resource,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
    core::NamespaceResourceScope,
};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::{Generator, wait_for};
use operator::validate::validate;
use serde_json::{Value, json};

use crate::support::{Cluster, PATIENCE};

/// A change and taking it back take about half a second. `make operator-objects` asks for more.
const STEPS: usize = 25;
const INVALID: usize = 400;

/// How many a longer run wants, or as many as fit into every run.
fn count(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |count| count.parse().unwrap())
}

fn schema() -> Value {
    let definition = serde_json::to_value(EventConsumer::crd()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// The specs of all examples, by the names of their objects. No pod runs here, so no lag is known: one that scales by lag would
/// keep whatever number of pods a change gave it, as it should. It is told to go to its minimum, so that the number follows from the
/// object alone.
fn examples() -> BTreeMap<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let objects = std::fs::read_dir(folder).unwrap().map(|entry| -> Value {
        serde_yaml::from_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap()
    });
    let consumers = objects.filter(|object| object["kind"] == "EventConsumer");
    let mut specs: BTreeMap<_, _> = consumers
        .map(|object| (object["metadata"]["name"].as_str().unwrap().to_owned(), object["spec"].clone()))
        .collect();
    for spec in specs.values_mut().filter(|spec| spec["scaling"]["mode"] == "Lag") {
        spec["scaling"]["onUnknownLag"] = json!("MinReplicas");
    }
    specs
}

fn object(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "EventConsumer", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

/// Whether our own types and rules refuse it, whatever the API server says.
fn is_invalid(object: &Value) -> bool {
    serde_json::from_value::<EventConsumer>(object.clone()).map_or(true, |object| validate(&object).is_err())
}

#[tokio::test]
async fn what_is_wrong_with_an_object_is_told_when_it_is_written() {
    let cluster = Cluster::start().await;
    let objects: Api<DynamicObject> =
        Api::namespaced_with(cluster.client(), "shop", &ApiResource::erase::<EventConsumer>(&()));
    let (schema, examples) = (schema(), examples());
    let mut generator = Generator::new(1);
    let (mut invalid, mut refused, mut admitted) = (0, 0, Vec::new());
    while invalid < count("OPERATOR_INVALID", INVALID) {
        let (name, spec) = examples.iter().nth(generator.below(examples.len())).unwrap();
        let mut spec = spec.clone();
        // Half of them break a type or a limit; the others are fine each by itself and break a rule, as our own code sees it.
        let what = if generator.below(2) == 0 {
            generator.spoil(&schema, &mut spec)
        } else {
            (0..3).for_each(|_| generator.change(&schema, &mut spec));
            if !is_invalid(&object(name, &spec)) {
                continue;
            }
            "a rule is broken".to_owned()
        };
        invalid += 1;
        let written: DynamicObject = serde_json::from_value(object(name, &spec)).unwrap();
        match objects.create(&PostParams { dry_run: true, ..PostParams::default() }, &written).await {
            Err(kube::Error::Api(why)) if why.code == 422 || why.code == 400 => refused += 1,
            Err(error) => panic!("{what}: {error}"),
            Ok(_) => admitted.push(format!("{what}: {spec}")),
        }
    }
    println!("objects: invalid={invalid} refused={refused}");
    assert!(refused * 100 >= invalid * 95, "{admitted:#?}");
}

#[tokio::test]
async fn whatever_was_changed_of_an_object_taking_it_back_leads_to_where_it_was() {
    let cluster = Cluster::start().await;
    let operator = cluster.operator();
    let objects: Api<EventConsumer> = Api::namespaced(cluster.client(), "shop");
    let (schema, examples) = (schema(), examples());
    let mut before = BTreeMap::new();
    for (name, spec) in &examples {
        let made: EventConsumer = serde_json::from_value(object(name, spec)).unwrap();
        objects.create(&PostParams::default(), &made).await.unwrap();
        settled(&cluster, name).await;
        before.insert(name, state(&cluster, name).await);
    }
    let mut generator = Generator::new(2);
    let (steps, mut taken, mut refused) = (count("OPERATOR_STEPS", STEPS), 0, 0);
    for step in 0..steps {
        let (name, spec) = examples.iter().nth(generator.below(examples.len())).unwrap();
        let mut changed = spec.clone();
        (0..=generator.below(3)).for_each(|_| generator.change(&schema, &mut changed));
        match write(&objects, name, &changed).await {
            Err(kube::Error::Api(why)) if why.code == 422 => refused += 1,
            Err(error) => panic!("{error}: {changed}"),
            Ok(()) => {
                taken += 1;
                settled(&cluster, name).await;
                write(&objects, name, spec).await.unwrap();
                settled(&cluster, name).await;
                let wanted = &before[name];
                let what = format!("step {step} of {name} is taken back: {changed}");
                let back = || async { (state(&cluster, name).await == *wanted).then_some(()) };
                if tokio::time::timeout(PATIENCE, wait_for(&what, PATIENCE * 2, back)).await.is_err() {
                    let mut left = Vec::new();
                    differences(wanted, &state(&cluster, name).await, "", &mut left);
                    panic!("{what}: {left:#?}");
                }
            }
        }
    }
    // A panic in a reconcile would end here.
    operator.stop().await;
    println!("objects: steps={steps} changed={taken} refused={refused} back={taken}");
    assert!(taken * 3 > steps, "enough of the changes were taken");
}

async fn write(objects: &Api<EventConsumer>, name: &str, spec: &Value) -> Result<(), kube::Error> {
    loop {
        let mut current = objects.get(name).await?;
        current.spec = serde_json::from_value(spec.clone()).unwrap();
        match objects.replace(name, &PostParams::default(), &current).await {
            // Its status was written in between.
            Err(kube::Error::Api(why)) if why.code == 409 => {}
            written => return written.map(drop),
        }
    }
}

/// Waits until the operator has done with an object what it can.
async fn settled(cluster: &Cluster, name: &str) {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), "shop");
    wait_for(&format!("{name} is reconciled"), Duration::from_secs(60), || async {
        // The first word about it comes before its children.
        deployments.get_metadata_opt(name).await.unwrap()?;
        let object = cluster.object(name).await;
        (object.status?.observed_generation == object.metadata.generation).then_some(())
    })
    .await;
}

/// The object and its children without what time and writes leave in them. Two kinds stay when they are no longer asked for: a
/// volume, which holds what is done, and a disruption budget, which does no harm to a single pod.
async fn state(cluster: &Cluster, name: &str) -> Value {
    let is_single = cluster.object(name).await.spec.replicas <= 1;
    let budget = if is_single { Value::Null } else { child::<PodDisruptionBudget>(cluster, name).await };
    json!({
        "object": child::<EventConsumer>(cluster, name).await,
        "serviceAccount": child::<ServiceAccount>(cluster, name).await,
        "configMap": child::<ConfigMap>(cluster, name).await,
        "podDisruptionBudget": budget,
        "networkPolicy": child::<NetworkPolicy>(cluster, name).await,
        "deployment": child::<Deployment>(cluster, name).await,
    })
}

/// Where two values differ, with both.
fn differences(before: &Value, now: &Value, path: &str, found: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(old), Value::Object(new)) => {
            let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for name in names {
                differences(&before[name], &now[name], &format!("{path}.{name}"), found);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differences(old, new, &format!("{path}[{index}]"), found);
            }
        }
        (before, now) if before != now => found.push(format!("{path}: {before} is {now}")),
        _ => {}
    }
}

async fn child<K>(cluster: &Cluster, name: &str) -> Value
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let api: Api<K> = Api::namespaced(cluster.client(), "shop");
    let selected = ListParams::default().fields(&format!("metadata.name={name}"));
    let Some(found) = api.list(&selected).await.unwrap().items.into_iter().next() else { return Value::Null };
    let mut value = serde_json::to_value(&found).unwrap();
    for field in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"] {
        value["metadata"].as_object_mut().unwrap().remove(field);
    }
    let status = value["status"].as_object_mut();
    for condition in status
        .and_then(|status| {
            status.remove("observedGeneration");
            status.get_mut("conditions")?.as_array_mut()
        })
        .into_iter()
        .flatten()
    {
        condition
            .as_object_mut()
            .unwrap()
            .retain(|field, _| field != "lastTransitionTime" && field != "observedGeneration");
    }
    value
}
