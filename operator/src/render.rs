//! The pure part of a reconcile, offline: for users, documents and tests.

use std::path::Path;

use kube::ResourceExt as _;
use millrace_operator_api::EventConsumer;
use serde::Deserialize as _;

use crate::{
    build::{Settings, build},
    error::Error,
    validate::validate,
};

/// The objects that the operator would make for the `EventConsumers` in a file, as YAML. Documents of other kinds are
/// passed over.
pub fn render(file: &Path, settings: &Settings) -> Result<String, Error> {
    let text = std::fs::read_to_string(file)?;
    let mut yaml = String::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = serde_yaml::Value::deserialize(document)?;
        if value.get("kind").and_then(serde_yaml::Value::as_str) != Some("EventConsumer") {
            continue;
        }
        let mut object: EventConsumer = serde_yaml::from_value(value)?;
        if object.namespace().is_none() {
            object.metadata.namespace = Some("default".to_owned());
        }
        yaml.push_str(&render_one(&object, settings)?);
    }
    Ok(yaml)
}

fn render_one(object: &EventConsumer, settings: &Settings) -> Result<String, Error> {
    let desired = build(&validate(object)?, settings)?;
    let volume = desired.claims_volume.as_ref().map(serde_yaml::to_string).transpose()?;
    let budget = desired.pod_disruption_budget.as_ref().map(serde_yaml::to_string).transpose()?;
    let policy = desired.network_policy.as_ref().map(serde_yaml::to_string).transpose()?;
    let documents = [
        Some(serde_yaml::to_string(&desired.service_account)?),
        Some(serde_yaml::to_string(&desired.config_map)?),
        volume,
        budget,
        policy,
        Some(serde_yaml::to_string(&desired.deployment)?),
    ];
    let documents: Vec<String> = documents.into_iter().flatten().map(|document| format!("---\n{document}")).collect();
    Ok(documents.concat())
}
