//! The configuration of the pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use millrace_config::{DeletionPolicy, RunState, RuntimeConfig};

use crate::{build::metadata, error::Error, validate::Valid};

/// The key of the configuration, and the name of its file in the pod.
pub(super) const KEY: &str = "config.yaml";

pub(super) fn build(valid: &Valid) -> Result<ConfigMap, Error> {
    let yaml = serde_yaml::to_string(&for_pods(&valid.config))?;
    Ok(ConfigMap {
        metadata: metadata(valid),
        data: Some(BTreeMap::from([(KEY.to_owned(), yaml)])),
        ..ConfigMap::default()
    })
}

/// What pods need not know is left out, so that a change of it replaces none.
fn for_pods(config: &RuntimeConfig) -> RuntimeConfig {
    let mut config = config.clone();
    // What is stopped has no pods.
    if config.run_state == RunState::Stopped {
        config.run_state = RunState::Running;
    }
    if let Some(jet_stream) = &mut config.broker.jet_stream {
        jet_stream.deletion_policy = DeletionPolicy::Retain;
    }
    config
}
