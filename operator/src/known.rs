//! What is kept of each kind of objects: as little as a look needs.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{Pod, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{CustomResourceExt as _, Resource as _, core::DeserializeGuard};
use millrace_operator_api::EventConsumer;
use serde_json::Value;

use crate::{
    apply::HASH_ANNOTATION,
    build::CONSUMER_LABEL,
    cache::Entry,
    context::FIELD_MANAGER,
    error::Error,
    fields::{Fields, Interned},
    key::Key,
    packed::Packed,
    queue::Lane,
    watch::number,
};

/// What is kept of an `EventConsumer`.
#[derive(Clone, Debug)]
pub struct Consumer {
    key: Key,
    uid: Box<str>,
    version: u64,
    generation: Option<i64>,
    leaves: bool,
    content: Content,
}

/// An `EventConsumer` may hold what this operator cannot read, when the definition on the cluster is another one.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    Readable(Packed<EventConsumer>),
    Unreadable(Box<str>),
}

/// An `EventConsumer` to look at.
#[derive(Debug)]
pub enum Looked {
    /// It can be read.
    Readable(Box<EventConsumer>),
    /// It cannot be read.
    Unreadable {
        /// Why not.
        why: String,
    },
}

impl Consumer {
    /// What is kept of `object`.
    pub fn of(object: DeserializeGuard<EventConsumer>) -> Result<(Key, Self), Error> {
        let metadata = object.meta();
        let key = Key::of(metadata);
        let consumer = Self {
            key: key.clone(),
            uid: metadata.uid.clone().unwrap_or_default().into(),
            version: number(metadata.resource_version.as_deref().unwrap_or_default()),
            generation: metadata.generation,
            leaves: metadata.deletion_timestamp.is_some(),
            content: match object.0 {
                Ok(object) => Content::Readable(Packed::pack(&prune(object))?),
                Err(invalid) => Content::Unreadable(invalid.error.into()),
            },
        };
        Ok((key, consumer))
    }

    /// As it is to be looked at.
    pub fn look(&self) -> Result<Looked, Error> {
        Ok(match &self.content {
            Content::Readable(packed) => {
                let mut object = packed.unpack()?;
                object.metadata.resource_version = Some(self.version.to_string());
                Looked::Readable(Box::new(object))
            }
            Content::Unreadable(why) => Looked::Unreadable { why: why.to_string() },
        })
    }
}

/// Labels, annotations and who wrote what play no part. The version changes with each write of the status.
fn prune(mut object: EventConsumer) -> EventConsumer {
    let metadata = &mut object.metadata;
    (metadata.managed_fields, metadata.annotations, metadata.labels) = (None, None, None);
    metadata.resource_version = None;
    object
}

impl Entry for Consumer {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn consumer(&self) -> Key {
        self.key.clone()
    }

    fn calls(&self, before: Option<&Self>) -> Option<Lane> {
        let Some(before) = before else { return Some(Lane::Back) };
        let edited = (before.generation, before.leaves) != (self.generation, self.leaves) || before.uid != self.uid;
        if edited {
            return Some(Lane::Front);
        }
        (before.content != self.content).then_some(Lane::Back)
    }
}

/// What is kept of a child.
#[derive(Clone, Debug)]
pub struct Child {
    consumer: Key,
    uid: Box<str>,
    version: u64,
    /// Uid of the `EventConsumer` that owns it.
    owner: Box<str>,
    /// Hash of what was last applied.
    applied: Box<str>,
    fields: Fields,
    /// The Deployment, without its pods; nothing for other kinds.
    deployment: Option<Packed<Deployment>>,
}

impl Child {
    /// What is kept of a child with this metadata; nothing for an object that belongs to no consumer.
    pub fn of(metadata: &ObjectMeta, interned: &Interned) -> Option<(Key, Self)> {
        let key = Key::of(metadata);
        let name = metadata.labels.as_ref()?.get(CONSUMER_LABEL)?;
        let consumer = Key::new(key.namespace(), name);
        let ours = |owner: &OwnerReference| owner.kind == EventConsumer::api_resource().kind;
        let owner = metadata.owner_references.iter().flatten().find(|owner| ours(owner));
        let applied = metadata.annotations.as_ref().and_then(|annotations| annotations.get(HASH_ANNOTATION));
        let child = Self {
            // Most have the name of their consumer: then both share one.
            consumer: if consumer == key { key.clone() } else { consumer },
            uid: metadata.uid.clone().unwrap_or_default().into(),
            version: number(metadata.resource_version.as_deref().unwrap_or_default()),
            owner: owner.map(|owner| owner.uid.as_str()).unwrap_or_default().into(),
            applied: applied.map(String::as_str).unwrap_or_default().into(),
            fields: interned.share(owned(metadata)),
            deployment: None,
        };
        Some((key, child))
    }

    /// What is kept of a Deployment.
    pub fn of_deployment(mut deployment: Deployment, interned: &Interned) -> Option<(Key, Self)> {
        let metadata = std::mem::take(&mut deployment.metadata);
        let (generation, replicas) = (metadata.generation, deployment.spec.replicas);
        let (key, mut child) = Self::of(&metadata, interned)?;
        let pruned = Deployment {
            metadata: ObjectMeta { generation, ..ObjectMeta::default() },
            spec: DeploymentSpec { replicas, ..DeploymentSpec::default() },
            status: deployment.status,
        };
        child.deployment = Some(Packed::pack(&pruned).ok()?);
        Some((key, child))
    }

    /// Uid of the `EventConsumer` that owns it; empty when none does.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Whether it is as it was applied with `hash`, which `desired` has.
    pub fn is_as_applied(&self, hash: &str, desired: &Value) -> bool {
        *self.applied == *hash && crate::fields::cover(&self.fields, desired)
    }

    /// The Deployment as it is, without its pods.
    pub fn deployment(&self) -> Option<Result<Deployment, Error>> {
        self.deployment.as_ref().map(Packed::unpack)
    }
}

/// The fields that we own, without the reference to the owner, which has a uid in its name.
fn owned(metadata: &ObjectMeta) -> Value {
    let ours = metadata.managed_fields.iter().flatten().find(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some("Apply")
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    let mut fields = ours.and_then(|entry| entry.fields_v1.clone()).map_or(Value::Null, |fields| fields.0);
    if let Some(metadata) = fields.get_mut("f:metadata").and_then(Value::as_object_mut) {
        metadata.remove("f:ownerReferences");
    }
    fields
}

impl Entry for Child {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn consumer(&self) -> Key {
        self.consumer.clone()
    }

    fn calls(&self, before: Option<&Self>) -> Option<Lane> {
        let same = before.is_some_and(|before| {
            (&before.uid, &before.owner, &before.applied, &before.fields, &before.deployment)
                == (&self.uid, &self.owner, &self.applied, &self.fields, &self.deployment)
        });
        (!same).then_some(Lane::Back)
    }
}

/// What is kept of a pod.
#[derive(Clone, Debug)]
pub struct KnownPod {
    consumer: Key,
    uid: Box<str>,
    version: u64,
    pod: Packed<Pod>,
}

impl KnownPod {
    /// What is kept of `pod`; nothing for one that belongs to no consumer.
    pub fn of(pod: Pod) -> Option<(Key, Self)> {
        let key = Key::of(&pod.metadata);
        let name = pod.metadata.labels.as_ref()?.get(CONSUMER_LABEL)?;
        let known = Self {
            consumer: Key::new(key.namespace(), name),
            uid: pod.metadata.uid.clone().unwrap_or_default().into(),
            version: number(pod.metadata.resource_version.as_deref().unwrap_or_default()),
            pod: Packed::pack(&prune_pod(pod)).ok()?,
        };
        Some((key, known))
    }

    /// The pod, as far as it is looked at.
    pub fn pod(&self) -> Result<Pod, Error> {
        self.pod.unpack()
    }
}

/// Its name, and how it stands.
fn prune_pod(pod: Pod) -> Pod {
    let ObjectMeta { name, namespace, uid, deletion_timestamp, .. } = pod.metadata;
    let status = pod.status.map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        conditions: status.conditions.map(|mut conditions| {
            conditions.retain(|condition| condition.type_ == "PodScheduled");
            conditions
        }),
        container_statuses: status.container_statuses,
        ..PodStatus::default()
    });
    Pod {
        metadata: ObjectMeta { name, namespace, uid, deletion_timestamp, ..ObjectMeta::default() },
        spec: None,
        status,
    }
}

impl Entry for KnownPod {
    const BY_CONSUMER: bool = true;

    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn consumer(&self) -> Key {
        self.consumer.clone()
    }

    fn calls(&self, before: Option<&Self>) -> Option<Lane> {
        let same = before.is_some_and(|before| before.pod == self.pod);
        (!same).then_some(Lane::Back)
    }
}
