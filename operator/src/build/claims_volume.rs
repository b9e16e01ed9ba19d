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
    let VolumeClaim { storage_class_name, .. } = &embedded(valid)?.volume_claim;
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(name(valid)), ..metadata(valid) },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size(&embedded(valid)?.volume_claim))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}

/// The size as the API server gives it back, so that it is seen to be right: in the largest unit without a fraction.
fn size(claim: &VolumeClaim) -> Quantity {
    let mut number = claim.mebibytes().unwrap_or_default();
    let mut unit = "Mi";
    for larger in ["Gi", "Ti", "Pi"] {
        if number == 0 || !number.is_multiple_of(1024) {
            break;
        }
        number /= 1024;
        unit = larger;
    }
    Quantity(format!("{number}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_written_as_the_api_server_writes_it() {
        for (given, written) in
            [("64Mi", "64Mi"), ("1024Mi", "1Gi"), ("1536Mi", "1536Mi"), ("2048Gi", "2Ti"), ("3Ti", "3Ti")]
        {
            let claim = VolumeClaim { storage_class_name: None, size: given.to_owned() };
            assert_eq!(size(&claim).0, written);
        }
    }
}
