//! Step 4: makes what is there what it is to be, by server-side apply. What is right already is not written.

use std::fmt::Debug;

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tracing::info;

use crate::{
    build::Desired,
    context::{Context, FIELD_MANAGER, answered},
    error::Error,
    fetch::Children,
    validate::Valid,
};

/// Applies the children in their order, and returns the Deployment as it is then. Safe to repeat, and to stop after any of
/// them.
pub async fn apply(
    context: &Context,
    valid: &Valid,
    desired: &Desired,
    children: &Children,
) -> Result<Deployment, Error> {
    let client = &context.client;
    apply_one(client, valid, "ServiceAccount", &desired.service_account, children.service_account.as_ref()).await?;
    apply_one(client, valid, "ConfigMap", &desired.config_map, children.config_map.as_ref()).await?;
    if let Some(volume) = &desired.claims_volume {
        apply_one(client, valid, "PersistentVolumeClaim", volume, children.claims_volume.as_ref()).await?;
    }
    let budget = children.pod_disruption_budget.as_ref();
    apply_one(client, valid, "PodDisruptionBudget", &desired.pod_disruption_budget, budget).await?;
    apply_one(client, valid, "Deployment", &desired.deployment, children.deployment.as_ref()).await
}

/// Takes the pods of a Deployment that exists away.
pub async fn stop(context: &Context, valid: &Valid, stopped: &Desired, children: &Children) -> Result<(), Error> {
    let existing = children.deployment.as_ref();
    apply_one(&context.client, valid, "Deployment", &stopped.deployment, existing).await.map(drop)
}

/// Makes a Job that is not there yet.
pub async fn job(context: &Context, valid: &Valid, job: &Job) -> Result<(), Error> {
    apply_one(&context.client, valid, "Job", job, None).await.map(drop)
}

async fn apply_one<K>(
    client: &Client,
    valid: &Valid,
    kind: &'static str,
    desired: &K,
    existing: Option<&K>,
) -> Result<K, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    if let Some(existing) = existing {
        // An object of the same name that somebody else made is never taken over.
        let owner = valid.owner.as_ref().map(|owner| &owner.uid);
        if !existing.owner_references().iter().any(|known| Some(&known.uid) == owner) {
            return Err(Error::NotOurs { kind, name: existing.name_any() });
        }
        if holds(&serde_json::to_value(existing)?, &serde_json::to_value(desired)?) {
            return Ok(existing.clone());
        }
    }
    let api: Api<K> = Api::namespaced(client.clone(), &valid.namespace);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let (name, patch) = (desired.name_any(), Patch::Apply(desired));
    let applied = answered("apply a child", api.patch(&name, &parameters, &patch)).await?;
    info!(namespace = valid.namespace, name = valid.name, kind, "applied");
    Ok(applied)
}

/// Whether everything that is desired is there. What the API server has added does not count.
fn holds(existing: &Value, desired: &Value) -> bool {
    match (existing, desired) {
        (Value::Object(existing), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| existing.get(key).is_some_and(|there| holds(there, value)))
        }
        (Value::Array(existing), Value::Array(desired)) => {
            existing.len() == desired.len() && existing.iter().zip(desired).all(|(there, value)| holds(there, value))
        }
        (existing, desired) => existing == desired,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_has_added_is_no_reason_to_write() {
        let desired = json!({"spec": {"containers": [{"name": "a", "args": ["x"]}]}});
        let existing = json!({"spec": {"containers": [{"name": "a", "args": ["x"], "default": 1}]}, "status": {}});
        assert!(holds(&existing, &desired));

        for changed in [
            json!({"spec": {"containers": [{"name": "b", "args": ["x"]}]}}),
            json!({"spec": {"containers": [{"name": "a", "args": ["x"]}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a"}]}}),
        ] {
            assert!(!holds(&changed, &desired), "{changed}");
        }
    }
}
