//! Step 4: makes what is there what it is to be, by server-side apply. What is right already is not written.

use std::fmt::Debug;

use k8s_openapi::{
    api::{apps::v1::Deployment, batch::v1::Job},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use millrace_operator_api::EventConsumer;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tracing::info;

use crate::{
    build::Desired,
    cache::Cache,
    context::{Context, FIELD_MANAGER, answered},
    error::Error,
    fetch::Children,
    known::Child,
    validate::Valid,
};

/// The hash of what was applied, in a child itself. So a child that is right is known by its metadata, also by an operator
/// that has just started.
pub const HASH_ANNOTATION: &str = "millrace.dev/applied-hash";

/// Applies the children in their order, and returns the Deployment as it is then. Safe to repeat, and to stop after any of
/// them.
pub async fn apply(
    context: &Context,
    valid: &Valid,
    desired: &Desired,
    children: &Children,
) -> Result<Deployment, Error> {
    if children.some_are_missing() {
        still_there(context, valid).await?;
    }
    let caches = &context.caches;
    let (existing, cache) = (children.service_account.as_ref(), &caches.service_accounts);
    apply_child(context, valid, "ServiceAccount", &desired.service_account, existing, cache).await?;
    let (existing, cache) = (children.config_map.as_ref(), &caches.config_maps);
    apply_child(context, valid, "ConfigMap", &desired.config_map, existing, cache).await?;
    if let Some(volume) = &desired.claims_volume {
        let (existing, cache) = (children.claims_volume.as_ref(), &caches.claims_volumes);
        apply_child(context, valid, "PersistentVolumeClaim", volume, existing, cache).await?;
    }
    if let Some(budget) = &desired.pod_disruption_budget {
        let (existing, cache) = (children.pod_disruption_budget.as_ref(), &caches.pod_disruption_budgets);
        apply_child(context, valid, "PodDisruptionBudget", budget, existing, cache).await?;
    }
    deployment(context, valid, desired, children).await
}

/// An error when the consumer is gone, or another one. Asked where something is to be made: a watch that is behind must not
/// bring the children of one that is deleted back.
async fn still_there(context: &Context, valid: &Valid) -> Result<(), Error> {
    let consumers: Api<EventConsumer> = Api::namespaced(context.client.clone(), &valid.namespace);
    let found = answered("get an EventConsumer", consumers.get_metadata_opt(&valid.name)).await?;
    let uid = found.filter(|found| found.metadata.deletion_timestamp.is_none()).and_then(|found| found.metadata.uid);
    let same = valid.owner.as_ref().is_some_and(|owner| uid.as_ref() == Some(&owner.uid));
    if same { Ok(()) } else { Err(Error::Outdated) }
}

/// Applies the Deployment, and returns it as it is then.
pub async fn deployment(
    context: &Context,
    valid: &Valid,
    desired: &Desired,
    children: &Children,
) -> Result<Deployment, Error> {
    let existing = children.deployment.as_ref();
    match apply_one(context, valid, "Deployment", &desired.deployment, existing).await? {
        Some(applied) => {
            if let Some((key, child)) = Child::of_deployment(applied.clone(), &context.caches.interned) {
                drop(context.caches.deployments.answered(&key, child));
            }
            Ok(applied)
        }
        None => existing.and_then(Child::deployment).unwrap_or_else(|| Ok(Deployment::default())),
    }
}

/// Makes a Job that is not there yet.
pub async fn job(context: &Context, valid: &Valid, job: &Job) -> Result<(), Error> {
    apply_one(context, valid, "Job", job, None).await.map(drop)
}

/// Applies a child of which nothing but the metadata is of interest.
async fn apply_child<K>(
    context: &Context,
    valid: &Valid,
    kind: &'static str,
    desired: &K,
    existing: Option<&Child>,
    cache: &Cache<Child>,
) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let applied = apply_one(context, valid, kind, desired, existing).await?;
    let child = applied.and_then(|applied| Child::of(applied.meta(), &context.caches.interned));
    if let Some((key, child)) = child {
        drop(cache.answered(&key, child));
    }
    Ok(())
}

/// Applies `desired` unless it is there; returns what there is then, if it had to.
async fn apply_one<K>(
    context: &Context,
    valid: &Valid,
    kind: &'static str,
    desired: &K,
    existing: Option<&Child>,
) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), &valid.namespace);
    let name = desired.name_any();
    let (wanted, hash) = content(desired)?;
    // An object of the same name that somebody else made is never taken over.
    let is_ours = match existing {
        Some(existing) => is_ours(existing, valid),
        // What is not known may be there, made by somebody else or a moment ago.
        None => match answered("look for a child", api.get_metadata_opt(&name)).await? {
            Some(found) => owned_by(&found.metadata, valid),
            None => true,
        },
    };
    if !is_ours {
        return Err(Error::NotOurs { kind, name });
    }
    if existing.is_some_and(|existing| existing.is_as_applied(&hash, &wanted)) {
        return Ok(None);
    }
    let mut patch = serde_json::to_value(desired)?;
    // No child has annotations of its own.
    if let Some(metadata) = patch.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".to_owned(), json!({ HASH_ANNOTATION: hash }));
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let applied = answered("apply a child", api.patch(&name, &parameters, &Patch::Apply(&patch))).await?;
    info!(namespace = valid.namespace, name = valid.name, kind, "applied");
    Ok(Some(applied))
}

/// What is desired of an object, but for what names it and its kind, and the hash of that.
fn content(desired: &impl Serialize) -> Result<(Value, String), Error> {
    let mut content = serde_json::to_value(desired)?;
    if let Some(content) = content.as_object_mut() {
        content.retain(|field, _| !matches!(field.as_str(), "apiVersion" | "kind"));
    }
    if let Some(metadata) = content.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| !matches!(field.as_str(), "name" | "namespace" | "ownerReferences"));
    }
    let hash = format!("{:x}", Sha256::digest(content.to_string())).chars().take(16).collect();
    Ok((content, hash))
}

fn is_ours(existing: &Child, valid: &Valid) -> bool {
    valid.owner.as_ref().is_some_and(|owner| owner.uid == existing.owner())
}

fn owned_by(metadata: &ObjectMeta, valid: &Valid) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.any(|known| valid.owner.as_ref().is_some_and(|owner| owner.uid == known.uid))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn the_hash_is_of_the_content_and_not_of_the_name_or_the_owner() {
        let map = |name: &str, uid: &str, value: &str| -> ConfigMap {
            let owner = json!([{"apiVersion": "v1", "kind": "EventConsumer", "name": name, "uid": uid}]);
            let metadata = json!({"name": name, "namespace": name, "labels": {"a": "b"}, "ownerReferences": owner});
            serde_json::from_value(json!({"metadata": metadata, "data": {"key": value}})).unwrap()
        };
        let (value, hash) = content(&map("a", "1", "x")).unwrap();
        assert_eq!(value, json!({"metadata": {"labels": {"a": "b"}}, "data": {"key": "x"}}));
        assert_eq!((content(&map("b", "2", "x")).unwrap().1 == hash, hash.len()), (true, 16));
        assert_ne!(content(&map("a", "1", "y")).unwrap().1, hash);
    }
}
