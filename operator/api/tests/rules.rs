//! Protects the validation rules of the CRDs without a cluster: each refuses what it is there for, with its own words.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{collections::BTreeSet, path::Path};

use kube::{
    CustomResourceExt,
    core::cel::{ValidationErrors, validate_cel, validate_cel_update},
};
use millrace_operator_api::{DeadLetterReplay, EventConsumer};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The cases of a file.
fn cases(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The valid object as `case` changes it.
fn object<K: DeserializeOwned>(cases: &Value, case: &Value) -> K {
    object_by(cases, case, "with")
}

fn object_by<K: DeserializeOwned>(cases: &Value, case: &Value, changes: &str) -> K {
    let mut spec = cases["valid"].clone();
    for (field, value) in case[changes].as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": cases["kind"],
        "metadata": {"name": case["name"].as_str().unwrap_or("orders")},
        "spec": spec,
    }))
    .unwrap()
}

fn said(refused: Result<(), ValidationErrors>) -> Vec<String> {
    refused.err().into_iter().flatten().map(|error| error.message).collect()
}

#[test]
fn a_valid_object_passes_every_rule_and_may_stay_as_it_is() {
    passes::<EventConsumer>("refused.yaml");
    passes::<DeadLetterReplay>("refused-replay.yaml");
}

fn passes<K: CustomResourceExt + DeserializeOwned + Serialize>(file: &str) {
    let valid: K = object(&cases(file), &Value::Null);

    assert_eq!(said(validate_cel(&valid)), [""; 0]);
    assert_eq!(said(validate_cel_update(&valid, &valid)), [""; 0]);
}

#[test]
fn what_breaks_a_rule_is_refused_by_that_rule() {
    refuses::<EventConsumer>("refused.yaml");
    refuses::<DeadLetterReplay>("refused-replay.yaml");
}

fn refuses<K: CustomResourceExt + DeserializeOwned + Serialize>(file: &str) {
    let cases = cases(file);
    for case in cases["rules"].as_array().unwrap() {
        let said = said(validate_cel(&object::<K>(&cases, case)));
        assert!(said.iter().any(|said| *said == case["says"]), "{case}: {said:?}");
    }
    for case in cases["changes"].as_array().unwrap() {
        let before: K = object_by(&cases, case, "from");
        assert_eq!(said(validate_cel(&before)), [""; 0], "{case}: it is changed from something valid");
        let said = said(validate_cel_update(&object::<K>(&cases, case), &before));
        assert!(said.iter().any(|said| *said == case["says"]), "{case}: {said:?}");
    }
}

#[test]
fn every_rule_has_a_case_that_it_refuses() {
    has_cases::<EventConsumer>("refused.yaml");
    has_cases::<DeadLetterReplay>("refused-replay.yaml");
}

fn has_cases<K: CustomResourceExt>(file: &str) {
    let cases = cases(file);
    let tested: BTreeSet<&str> = ["rules", "changes"]
        .iter()
        .flat_map(|list| cases[list].as_array().unwrap())
        .map(|case| case["says"].as_str().unwrap())
        .collect();

    let crd = serde_json::to_value(K::crd()).unwrap();
    let mut rules = BTreeSet::new();
    messages(&crd["spec"]["versions"][0]["schema"], &mut rules);

    assert_eq!(rules, tested);
}

/// The messages of all rules at and below `schema`.
fn messages<'schema>(schema: &'schema Value, found: &mut BTreeSet<&'schema str>) {
    if let Some(rules) = schema["x-kubernetes-validations"].as_array() {
        found.extend(rules.iter().map(|rule| rule["message"].as_str().expect("every rule has a message")));
    }
    let children = schema.as_object().map(|object| object.values().collect::<Vec<_>>()).unwrap_or_default();
    for child in children {
        messages(child, found);
    }
}
