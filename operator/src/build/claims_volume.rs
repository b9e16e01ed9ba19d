//! The volume of the embedded store.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use millrace_config::{Embedded, VolumeClaim};

use crate::{build::metadata, validate::Valid};

/// The name of the claim on the volume.
pub(crate) fn name(valid: &Valid) -> String {
    format!("{}-claims", valid.name)
}

/// The embedded store, where there is one.
pub(crate) fn embedded(valid: &Valid) -> Option<&Embedded> {
    valid.config.idempotency.store.as_ref()?.embedded.as_ref()
}

pub(super) fn build(valid: &Valid) -> Option<PersistentVolumeClaim> {
    let VolumeClaim { storage_class_name, size } = &embedded(valid)?.volume_claim;
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(name(valid)), ..metadata(valid) },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size.clone()))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}
