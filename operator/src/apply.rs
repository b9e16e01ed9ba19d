//! Step 4: makes what is there what it is to be, by server-side apply. What is right already is not written.

use std::fmt::Debug;

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, networking::v1::NetworkPolicy};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, Preconditions},
    core::NamespaceResourceScope,
};
use millrace_operator_api::EventConsumer;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use tracing::info;

use crate::{
    build::Desired,
    cache::{Cache, Entry as _},
    context::{Context, answered, applying},
    error::Error,
    fetch::Children,
    known::Child,
    validate::Valid,
};

/// The hash of what was applied, in a child itself. So a child that is right is known by its metadata, also by an operator
/// that has just started.
pub const HASH_ANNOTATION: &str = "millrace.dev/applied-hash";

/// The version that an apply asks for where nothing is to be there: no object has it, as the store counts on from it. The API
/// server makes what is not there whatever version is asked for, and refuses to change what has another.
const VERSION_OF_NOTHING: &str = "1";

/// Applies the children in their order, and returns the Deployment as it is then. Safe to repeat, and to stop after any of
/// them. The consumer is looked at before the first write, unless it `is_current` by what was just written to it.
pub async fn apply(
    context: &Context,
    valid: &Valid,
    desired: &Desired,
    children: &Children,
    is_current: bool,
) -> Result<Deployment, Error> {
    let is_current = OnceCell::new_with(is_current.then_some(()));
    let (caches, writer) = (&context.caches, Writer { context, valid, is_current });
    writer.what_pods_need(desired, children).await?;
    if let Some(volume) = &desired.claims_volume {
        let (existing, cache) = (children.claims_volume.as_ref(), &caches.claims_volumes);
        writer.child("PersistentVolumeClaim", volume, existing, cache).await?;
    }
    if let Some(budget) = &desired.pod_disruption_budget {
        let (existing, cache) = (children.pod_disruption_budget.as_ref(), &caches.pod_disruption_budgets);
        writer.child("PodDisruptionBudget", budget, existing, cache).await?;
    }
    let (existing, cache) = (children.network_policy.as_ref(), &caches.network_policies);
    match &desired.network_policy {
        Some(policy) => writer.child("NetworkPolicy", policy, existing, cache).await?,
        None => writer.remove::<NetworkPolicy>("NetworkPolicy", existing).await?,
    }
    writer.deployment(desired, children).await
}

/// Applies the Deployment alone.
pub async fn deployment(context: &Context, valid: &Valid, desired: &Desired, children: &Children) -> Result<(), Error> {
    Writer::new(context, valid).deployment(desired, children).await.map(drop)
}

/// Applies the children that a pod of the consumer cannot start without.
pub async fn what_pods_need(
    context: &Context,
    valid: &Valid,
    desired: &Desired,
    children: &Children,
) -> Result<(), Error> {
    Writer::new(context, valid).what_pods_need(desired, children).await
}

/// Makes a Job that is not there yet.
pub async fn job(context: &Context, valid: &Valid, job: &Job) -> Result<(), Error> {
    Writer::new(context, valid).apply("Job", job, None).await.map(drop)
}

/// Writes the children of one consumer.
struct Writer<'a> {
    context: &'a Context,
    valid: &'a Valid,
    /// Whether the consumer is known to be as it was seen.
    is_current: OnceCell<()>,
}

impl<'a> Writer<'a> {
    fn new(context: &'a Context, valid: &'a Valid) -> Self {
        Self { context, valid, is_current: OnceCell::new() }
    }

    async fn what_pods_need(&self, desired: &Desired, children: &Children) -> Result<(), Error> {
        let caches = &self.context.caches;
        let (existing, cache) = (children.service_account.as_ref(), &caches.service_accounts);
        self.child("ServiceAccount", &desired.service_account, existing, cache).await?;
        let (existing, cache) = (children.config_map.as_ref(), &caches.config_maps);
        self.child("ConfigMap", &desired.config_map, existing, cache).await
    }

    async fn deployment(&self, desired: &Desired, children: &Children) -> Result<Deployment, Error> {
        let (existing, caches) = (children.deployment.as_ref(), &self.context.caches);
        let Some(applied) = self.apply("Deployment", &desired.deployment, existing).await? else {
            return existing.and_then(Child::deployment).unwrap_or_else(|| Ok(Deployment::default()));
        };
        if let Some((key, child)) = Child::of_deployment(applied.clone(), &caches.interned) {
            drop(caches.deployments.answered(&key, child));
        }
        Ok(applied)
    }

    /// Applies a child of which nothing but the metadata is of interest.
    async fn child<K>(
        &self,
        kind: &'static str,
        desired: &K,
        existing: Option<&Child>,
        cache: &Cache<Child>,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let applied = self.apply(kind, desired, existing).await?;
        let child = applied.and_then(|applied| Child::of(applied.meta(), &self.context.caches.interned));
        if let Some((key, child)) = child {
            drop(cache.answered(&key, child));
        }
        Ok(())
    }

    /// Applies `desired` unless it is there; returns what there is then, if it had to.
    async fn apply<K>(&self, kind: &'static str, desired: &K, existing: Option<&Child>) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &self.valid.namespace);
        let name = desired.name_any();
        let (wanted, hash) = content(desired)?;
        // An object of the same name that somebody else made is never taken over.
        if existing.is_some_and(|existing| !is_owner(existing.owner(), self.valid)) {
            return Err(Error::NotOurs { kind, name });
        }
        if existing.is_some_and(|existing| existing.is_as_applied(&hash, &wanted)) {
            return Ok(None);
        }
        self.is_current.get_or_try_init(|| check_current(self.context, self.valid)).await?;
        let mut patch = serde_json::to_value(desired)?;
        // No child has annotations of its own.
        set(&mut patch, "annotations", json!({ HASH_ANNOTATION: hash }));
        let applied = match existing {
            Some(_) => write(&api, &name, &patch).await?,
            None => self.make(kind, &api, &name, patch).await?,
        };
        info!(namespace = self.valid.namespace, name = self.valid.name, kind, "applied");
        Ok(Some(applied))
    }

    /// Applies a child that is not known. It may be there for all that, made by somebody else or a moment ago: then nothing
    /// is written before it is looked at.
    async fn make<K>(&self, kind: &'static str, api: &Api<K>, name: &str, mut patch: Value) -> Result<K, Error>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        set(&mut patch, "resourceVersion", json!(VERSION_OF_NOTHING));
        match write(api, name, &patch).await {
            Err(error) if error.category() == "conflict" => {}
            made => return made,
        }
        // A list, as it needs no right of its own.
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = answered("look for a child", api.list_metadata(&named)).await?.items.pop();
        if let Some(found) = &found
            && !found.metadata.owner_references.iter().flatten().any(|owner| is_owner(&owner.uid, self.valid))
        {
            return Err(Error::NotOurs { kind, name: name.to_owned() });
        }
        set(&mut patch, "resourceVersion", Value::Null);
        set(&mut patch, "uid", json!(found.and_then(|found| found.metadata.uid)));
        write(api, name, &patch).await
    }

    /// Deletes a child that is no longer to be there: the very one that was seen, and nobody else's.
    async fn remove<K>(&self, kind: &'static str, existing: Option<&Child>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let Some(existing) = existing.filter(|existing| is_owner(existing.owner(), self.valid)) else { return Ok(()) };
        self.is_current.get_or_try_init(|| check_current(self.context, self.valid)).await?;
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &self.valid.namespace);
        let seen = Preconditions { uid: Some(existing.uid().to_owned()), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
        match answered("delete a child", api.delete(&self.valid.name, &parameters)).await {
            // Somebody else was first.
            Err(Error::Api { source, .. }) if matches!(*source, kube::Error::Api(ref why) if why.is_not_found()) => {}
            deleted => drop(deleted?),
        }
        info!(namespace = self.valid.namespace, name = self.valid.name, kind, "deleted");
        Ok(())
    }
}

/// An error when the consumer is no longer as it was seen: a watch that is behind must neither bring back the children of one
/// that is deleted, nor take back what was changed since then.
pub async fn check_current(context: &Context, valid: &Valid) -> Result<(), Error> {
    let consumers: Api<EventConsumer> = Api::namespaced(context.client.clone(), &valid.namespace);
    let found = answered("get an EventConsumer", consumers.get_metadata_opt(&valid.name)).await?;
    let is_current = found.is_some_and(|found| {
        let uid = found.metadata.uid.unwrap_or_default();
        is_owner(&uid, valid) && found.metadata.generation == valid.generation
    });
    if is_current { Ok(()) } else { Err(Error::Outdated) }
}

async fn write<K>(api: &Api<K>, name: &str, patch: &Value) -> Result<K, Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    answered("apply a child", api.patch(name, &applying(), &Patch::Apply(patch))).await
}

/// Sets a field of the metadata, or takes it out.
fn set(object: &mut Value, field: &str, value: Value) {
    let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) else { return };
    if value.is_null() {
        metadata.remove(field);
    } else {
        metadata.insert(field.to_owned(), value);
    }
}

fn is_owner(uid: &str, valid: &Valid) -> bool {
    valid.owner.as_ref().is_some_and(|owner| owner.uid == uid)
}

/// What is desired of an object, but for what names it and its kind, and the hash of that.
pub(crate) fn content(desired: &impl Serialize) -> Result<(Value, String), Error> {
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
