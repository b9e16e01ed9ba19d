//! What `Ready` of a consumer says, and how soon.

use std::time::Duration;

use kube::{Api, Resource, api::DynamicObject, core::ApiResource};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::wait_for;

use super::workload::Shop;

/// How soon a condition names what is wrong.
pub const NAMED: Duration = Duration::from_secs(15);

/// How soon all is well after it is mended.
pub const MENDED: Duration = Duration::from_secs(60);

/// The status and reason of `Ready` of a consumer, and its message.
pub async fn ready(shop: &Shop, name: &str) -> Option<(String, String)> {
    ready_of::<EventConsumer>(shop, name).await
}

/// The same of any object of ours.
pub async fn ready_of<K: Resource<DynamicType = ()>>(shop: &Shop, name: &str) -> Option<(String, String)> {
    let kind = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(shop.client.clone(), &shop.namespace, &kind);
    let object = api.get(name).await.unwrap();
    let conditions = object.data["status"]["conditions"].as_array()?.clone();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready")?;
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    Some((format!("{} {}", text("status"), text("reason")), text("message")))
}

/// Waits until `Ready` has this status and reason, and gives its message.
pub async fn when_ready_is(shop: &Shop, name: &str, limit: Duration, wanted: &str) -> String {
    let what = format!("Ready of {name} is {wanted}");
    wait_for(&what, limit, || async { ready(shop, name).await.filter(|(is, _)| is == wanted).map(|(_, why)| why) })
        .await
}
