//! The reference of a custom resource, as Markdown, from its definition: what `kubectl explain` says, on one page. Pure.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use crate::error::Error;

/// The reference of the first version of a definition.
///
/// # Errors
/// When the definition cannot be written as JSON.
pub fn reference(definition: &CustomResourceDefinition) -> Result<String, Error> {
    let definition = serde_json::to_value(definition)?;
    let at = |path: &str| definition.pointer(path).unwrap_or(&Value::Null);
    let schema = at("/spec/versions/0/schema/openAPIV3Schema");
    let (kind, group) = (text(at("/spec/names/kind")), text(at("/spec/group")));
    let mut lines = vec![
        format!("# {kind}"),
        String::new(),
        format!("`{group}/{}`, namespaced. {}", text(at("/spec/versions/0/name")), described(schema)),
        String::new(),
        "Generated from the definition by `operator reference`; `kubectl explain` says the same of each field."
            .to_owned(),
    ];
    for part in ["spec", "status"] {
        lines.extend([String::new(), format!("## {part}"), String::new()]);
        lines.extend(["| field | type | |".to_owned(), "|---|---|---|".to_owned()]);
        lines.extend(rows(get(get(schema, "properties"), part), ""));
    }
    let refused = "Beside what the types and limits above refuse:";
    lines.extend(["", "## What is refused", "", refused, ""].map(str::to_owned));
    // Several fields may have the same rule.
    let mut listed = BTreeSet::new();
    let refusals = refusals(schema).into_iter().filter(|message| listed.insert(*message));
    lines.extend(refusals.map(|message| format!("- {message}")));
    Ok(lines.join("\n") + "\n")
}

/// What the rules at and below `schema` say when they refuse something, the ones between fields first.
fn refusals(schema: &Value) -> Vec<&str> {
    let rules = get(schema, "x-kubernetes-validations").as_array().into_iter().flatten();
    let mut all: Vec<&str> = rules.map(|rule| text(get(rule, "message"))).collect();
    let below = get(schema, "properties").as_object().into_iter().flatten();
    all.extend(below.flat_map(|(_, field)| refusals(field)));
    all
}

/// A row for each field at and below `schema`, in the order of the definition.
fn rows(schema: &Value, path: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (name, field) in get(schema, "properties").as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let required = get(schema, "required").as_array().is_some_and(|all| all.iter().any(|one| one == name));
        let necessity = if required { ", required" } else { "" };
        all.push(format!("| `{path}` | {}{necessity} | {} |", type_of(field), described(field)));
        all.extend(rows(field, &path));
        all.extend(rows(get(field, "items"), &format!("{path}[]")));
    }
    all
}

/// Type, limits and default in a few words.
fn type_of(field: &Value) -> String {
    let mut words = match text(get(field, "type")) {
        "array" => format!("list of {}", type_of(get(field, "items"))),
        "object" if get(field, "additionalProperties").is_object() => {
            format!("map of {}", type_of(get(field, "additionalProperties")))
        }
        other => other.to_owned(),
    };
    if let Some(values) = get(field, "enum").as_array() {
        let values: Vec<_> = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        words = format!("one of {}", values.join(", "));
    }
    let limit = |least: &str, most: &str| match (get(field, least), get(field, most)) {
        (Value::Null, Value::Null) => None,
        (least, Value::Null) => Some(format!("at least {}", plain(least))),
        (Value::Null, most) => Some(format!("at most {}", plain(most))),
        (least, most) => Some(format!("{} to {}", plain(least), plain(most))),
    };
    let counted = |unit: &'static str| move |limit: String| format!("{limit} {unit}");
    let limits = [
        limit("minimum", "maximum"),
        limit("minLength", "maxLength").map(counted("characters")),
        limit("minItems", "maxItems").map(counted("items")),
        limit("minProperties", "maxProperties").map(counted("entries")),
        get(field, "pattern").as_str().map(|pattern| format!("`{}`", pattern.replace('|', "\\|"))),
        // The default of a block is that of its fields.
        Some(get(field, "default"))
            .filter(|value| !value.is_null() && !value.is_object())
            .map(|value| format!("default `{}`", plain(value))),
    ];
    for limit in limits.into_iter().flatten() {
        words = format!("{words}, {limit}");
    }
    words
}

/// Limits are written as fractions, though all of them are whole.
fn plain(value: &Value) -> String {
    let number = value.as_f64().map(|number| number.to_string());
    number.or_else(|| value.as_str().map(str::to_owned)).unwrap_or_else(|| value.to_string())
}

fn described(schema: &Value) -> String {
    escaped(text(get(schema, "description"))).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// As it must be within a row of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

fn get<'value>(object: &'value Value, name: &str) -> &'value Value {
    object.get(name).unwrap_or(&Value::Null)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
