//! Tells what was seen of a consumer: by its status, and by Events where that turns.

use jiff::Timestamp;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{ApiResource, DynamicObject, Patch},
    core::DeserializeGuard,
};
use millrace_operator_api::{EventConsumer, EventConsumerStatus};
use serde_json::json;
use tracing::warn;

use crate::{
    context::{Context, answered, applying},
    error::Error,
    key::Key,
    known::Consumer,
    status::{Seen, status, unreadable},
    transitions,
};

/// Says of a consumer of which nothing has been said yet that it is on its way, and returns it as it is then. The API server
/// takes that only for the very object that was seen, so that nobody has to look whether it is still so.
pub async fn begin(context: &Context, object: &EventConsumer) -> Result<Option<EventConsumer>, Error> {
    if object.status.is_some() {
        return Ok(None);
    }
    let mut begun = object.clone();
    let new = begun.status.insert(status(object, &Seen::New, Timestamp::now()));
    match put_status(context, object, new, object.resource_version()).await {
        Ok(version) => begun.metadata.resource_version = version,
        Err(error) if error.is_not_as_expected() => return Err(Error::Outdated),
        Err(error) => return Err(error),
    }
    Ok(Some(begun))
}

/// Writes the status if it differs from the one that is there, and an Event for each condition that turned. What is there is
/// known from our own last write, or from a later one of somebody else.
pub async fn write_status(
    context: &Context,
    object: &EventConsumer,
    seen: &Seen<'_>,
) -> Result<EventConsumerStatus, Error> {
    let new = status(object, seen, Timestamp::now());
    if object.status.as_ref() == Some(&new) {
        return Ok(new);
    }
    drop(put_status(context, object, &new, None).await?);
    tell_transitions(context, object, &new).await;
    Ok(new)
}

/// Writes the status, of the object in this version alone where one is given, and returns the version that it has then.
async fn put_status(
    context: &Context,
    object: &EventConsumer,
    new: &EventConsumerStatus,
    version: Option<String>,
) -> Result<Option<String>, Error> {
    let api: Api<DeserializeGuard<EventConsumer>> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    // Never that of an object of the same name that came after this one.
    let metadata = match version {
        Some(version) => json!({"uid": object.uid(), "resourceVersion": version}),
        None => json!({"uid": object.uid()}),
    };
    let patch = json!({
        "apiVersion": EventConsumer::api_version(&()), "kind": EventConsumer::kind(&()), "metadata": metadata, "status": new,
    });
    let name = object.name_any();
    let written = answered("write the status", api.patch_status(&name, &applying(), &Patch::Apply(&patch))).await?;
    let version = written.resource_version();
    let (key, known) = Consumer::of(written)?;
    for (key, lane) in context.caches.consumers.answered(&key, known) {
        context.queue.push(&key, lane);
    }
    Ok(version)
}

/// Says of a consumer that cannot be read that it cannot. Its pods, if it has any, stay as they are.
pub async fn tell_unreadable(context: &Context, key: &Key, why: &str) -> Result<(), Error> {
    let kind = ApiResource::erase::<EventConsumer>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), key.namespace(), &kind);
    let Some(found) = answered("get an EventConsumer", api.get_opt(key.name())).await? else { return Ok(()) };
    let status = unreadable(&found, why, Timestamp::now());
    if found.data.pointer("/status/conditions") == status.get("conditions") {
        return Ok(());
    }
    warn!(%key, why, "an EventConsumer cannot be read");
    let patch = json!({
        "apiVersion": EventConsumer::api_version(&()), "kind": EventConsumer::kind(&()),
        "metadata": {"uid": found.metadata.uid}, "status": status,
    });
    answered("write the status", api.patch_status(key.name(), &applying(), &Patch::Apply(&patch))).await?;
    Ok(())
}

/// Writes an Event for each condition that turned.
async fn tell_transitions(context: &Context, object: &EventConsumer, new: &EventConsumerStatus) {
    for event in transitions::events(object.status.as_ref(), new) {
        if let Err(error) = answered("write an Event", context.recorder.publish(&event, &object.object_ref(&()))).await
        {
            warn!(%error, "an Event is lost");
        }
    }
}
