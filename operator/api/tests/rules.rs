//! Protects the validation rules of the CRD without a cluster: each refuses what it is there for, with its own words.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{collections::BTreeSet, path::Path};

use kube::{
    CustomResourceExt as _,
    core::cel::{ValidationErrors, validate_cel, validate_cel_update},
};
use millrace_operator_api::EventConsumer;
use serde_json::{Value, json};

/// The cases of `refused.yaml`.
fn cases() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused.yaml");
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The valid object as `case` changes it.
fn object(cases: &Value, case: &Value) -> EventConsumer {
    object_by(cases, case, "with")
}

fn object_by(cases: &Value, case: &Value, changes: &str) -> EventConsumer {
    let mut spec = cases["valid"].clone();
    for (field, value) in case[changes].as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "EventConsumer",
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
    let valid = object(&cases(), &Value::Null);

    assert_eq!(said(validate_cel(&valid)), [""; 0]);
    assert_eq!(said(validate_cel_update(&valid, &valid)), [""; 0]);
}

#[test]
fn what_breaks_a_rule_is_refused_by_that_rule() {
    let cases = cases();
    for case in cases["rules"].as_array().unwrap() {
        let said = said(validate_cel(&object(&cases, case)));
        assert!(said.iter().any(|said| *said == case["says"]), "{case}: {said:?}");
    }
    for case in cases["changes"].as_array().unwrap() {
        let before = object_by(&cases, case, "from");
        assert_eq!(said(validate_cel(&before)), [""; 0], "{case}: it is changed from something valid");
        let said = said(validate_cel_update(&object(&cases, case), &before));
        assert!(said.iter().any(|said| *said == case["says"]), "{case}: {said:?}");
    }
}

#[test]
fn every_rule_has_a_case_that_it_refuses() {
    let cases = cases();
    let tested: BTreeSet<&str> = ["rules", "changes"]
        .iter()
        .flat_map(|list| cases[list].as_array().unwrap())
        .map(|case| case["says"].as_str().unwrap())
        .collect();

    let crd = serde_json::to_value(EventConsumer::crd()).unwrap();
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
