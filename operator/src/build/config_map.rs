//! The configuration of the pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use crate::{build::metadata, error::Error, validate::Valid};

/// The key of the configuration, and the name of its file in the pod.
pub(super) const KEY: &str = "config.yaml";

pub(super) fn build(valid: &Valid) -> Result<ConfigMap, Error> {
    let yaml = serde_yaml::to_string(&valid.config)?;
    Ok(ConfigMap {
        metadata: metadata(valid),
        data: Some(BTreeMap::from([(KEY.to_owned(), yaml)])),
        ..ConfigMap::default()
    })
}
