//! Whose a Job is. Jobs are looked at by name, and somebody else may have taken that name.

use k8s_openapi::api::batch::v1::Job;
use kube::{Resource, ResourceExt as _};

/// Whose a Job is.
pub(crate) enum Owner {
    /// This very object's.
    This,
    /// An earlier object's of the same kind and name. It goes with that.
    Earlier,
    /// Somebody else's.
    SomebodyElse,
}

pub(crate) fn owner_of<K: Resource<DynamicType = ()>>(job: &Job, object: &K) -> Owner {
    let (owners, kind) = (job.owner_references(), K::kind(&()));
    if owners.iter().any(|owner| Some(&owner.uid) == object.meta().uid.as_ref()) {
        Owner::This
    } else if owners.iter().any(|owner| owner.kind == kind && Some(&owner.name) == object.meta().name.as_ref()) {
        Owner::Earlier
    } else {
        Owner::SomebodyElse
    }
}
