//! Protects what the definition says to whoever reads or writes an object: every field is explained, everything that may be
//! written has an end, and nothing is merged by chance.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use kube::CustomResourceExt as _;
use millrace_operator_api::EventConsumer;
use serde_json::{Value, json};

fn version() -> Value {
    serde_json::to_value(EventConsumer::crd()).unwrap()["spec"]["versions"][0].clone()
}

fn schema(part: &str) -> Value {
    version()["schema"]["openAPIV3Schema"]["properties"][part].clone()
}

/// Every schema at and below this one, with its path.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(field, &format!("{path}.{name}"), visit);
    }
    for (inner, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[inner].is_object() {
            walk(&schema[inner], &format!("{path}{suffix}"), visit);
        }
    }
}

/// What is wrong at any place, as paths.
fn wrong(part: &str, is_wrong: impl Fn(&Value) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    walk(&schema(part), part, &mut |path, schema| {
        if is_wrong(schema) {
            found.push(path.to_owned());
        }
    });
    found
}

#[test]
fn kubectl_explain_has_a_word_on_every_field() {
    for part in ["spec", "status"] {
        let mut fields = 0;
        let mut silent = Vec::new();
        walk(&schema(part), part, &mut |path, schema| {
            let is_field = !path.ends_with(']') && !path.ends_with('}');
            fields += usize::from(is_field);
            if is_field && schema["description"].as_str().is_none_or(|words| words.trim().is_empty()) {
                silent.push(path.to_owned());
            }
        });
        assert_eq!(silent, [""; 0]);
        assert!(fields > 10, "{part} has {fields} fields");
    }
}

#[test]
fn whatever_may_be_written_has_a_greatest_size() {
    let unbounded = wrong("spec", |schema| match schema["type"].as_str() {
        Some("string") => schema["enum"].is_null() && schema["maxLength"].is_null(),
        Some("array") => schema["maxItems"].is_null(),
        Some("integer") => schema["minimum"].is_null() || schema["maximum"].is_null(),
        Some("object") => schema["additionalProperties"].is_object() && schema["maxProperties"].is_null(),
        Some("boolean") => false,
        _ => true,
    });
    assert_eq!(unbounded, [""; 0]);
}

#[test]
fn every_list_says_how_it_is_merged_and_conditions_are_merged_by_their_type() {
    let silent = wrong("spec", |schema| schema["type"] == "array" && schema["x-kubernetes-list-type"].is_null());
    assert_eq!(silent, [""; 0]);
    let conditions = &schema("status")["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
}

#[test]
fn objects_can_be_selected_by_what_they_are_and_do() {
    let fields = version()["selectableFields"].as_array().unwrap().clone();
    let paths: Vec<_> = fields.iter().map(|field| field["jsonPath"].as_str().unwrap().to_owned()).collect();
    let expected =
        [".spec.runState", ".spec.scaling.mode", ".status.broker", ".status.handler", ".status.deliveryGuarantee"];
    assert_eq!(paths, expected);
}
