//! The pure part of a reconcile, offline: for users, documents and tests.

use std::path::Path;

use jiff::Timestamp;
use kube::{Resource, ResourceExt as _};
use millrace_config::Problem;
use millrace_operator_api::{DeadLetterReplay, EventConsumer};
use serde::Deserialize as _;

use crate::{
    build::{self, Settings},
    error::Error,
    replay,
    validate::validate,
};

/// The objects that the operator would make for the `EventConsumers` and `DeadLetterReplays` in a file, as YAML. A replay
/// needs its consumer in the same file. Documents of other kinds are passed over.
pub fn render(file: &Path, settings: &Settings) -> Result<String, Error> {
    let text = std::fs::read_to_string(file)?;
    let (mut consumers, mut replays) = (Vec::<EventConsumer>::new(), Vec::<DeadLetterReplay>::new());
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = serde_yaml::Value::deserialize(document)?;
        match value.get("kind").and_then(serde_yaml::Value::as_str) {
            Some("EventConsumer") => consumers.push(placed(serde_yaml::from_value(value)?)),
            Some("DeadLetterReplay") => replays.push(placed(serde_yaml::from_value(value)?)),
            _ => {}
        }
    }
    let mut yaml = String::new();
    for consumer in &consumers {
        yaml.push_str(&render_consumer(consumer, settings)?);
    }
    for replay in &replays {
        let name = &replay.spec.consumer_ref.name;
        let of_it =
            |consumer: &&EventConsumer| consumer.name_any() == *name && consumer.namespace() == replay.namespace();
        let Some(consumer) = consumers.iter().find(of_it) else {
            let message = format!("EventConsumer {name:?} of the same namespace must be in the same file");
            return Err(Error::Invalid(vec![Problem::new("consumerRef", message)]));
        };
        let valid = replay::validate::validate(replay, consumer, Timestamp::now())?;
        yaml.push_str("---\n");
        yaml.push_str(&serde_yaml::to_string(&build::replay::build(&valid, settings))?);
    }
    Ok(yaml)
}

/// An object without a namespace is in that of kubectl.
fn placed<K: Resource>(mut object: K) -> K {
    object.meta_mut().namespace.get_or_insert_with(|| "default".to_owned());
    object
}

fn render_consumer(object: &EventConsumer, settings: &Settings) -> Result<String, Error> {
    let desired = build::build(&validate(object)?, settings)?;
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
