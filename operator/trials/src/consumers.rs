//! Consumers by the thousand.

use futures::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, Resource as _,
    api::{ListParams, ObjectList, Patch, PatchParams, PostParams},
    core::{ObjectMeta, PartialObjectMeta},
};
use millrace_operator_api::EventConsumer;
use serde::Deserialize;
use serde_json::{Value, json};

/// Requests at once while they are made.
const AT_ONCE: usize = 32;

/// Consumers are spread over so many namespaces.
const NAMESPACES: usize = 20;

/// Objects in a page of a list.
const PAGE: u32 = 500;

/// The namespaces that consumers are spread over.
pub fn namespaces() -> impl Iterator<Item = String> {
    (0..NAMESPACES).map(|number| format!("team-{number}"))
}

/// The spec of all of them: that of the example.
fn spec() -> Value {
    let example: Value = serde_yaml::from_str(include_str!("../../../deploy/examples/log.yaml")).unwrap();
    example["spec"].clone()
}

/// Where number `number` is.
pub fn place(number: usize) -> (String, String) {
    (format!("team-{}", number % NAMESPACES), format!("consumer-{number:05}"))
}

/// Makes the consumers of these numbers.
pub async fn make(client: &Client, numbers: std::ops::Range<usize>) {
    let spec: millrace_operator_api::EventConsumerSpec = serde_json::from_value(spec()).unwrap();
    stream::iter(numbers)
        .for_each_concurrent(AT_ONCE, |number| {
            let ((namespace, name), spec) = (place(number), spec.clone());
            async move {
                let api: Api<EventConsumer> = Api::namespaced(client.clone(), &namespace);
                let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
                let object = EventConsumer { metadata, spec, status: None };
                api.create(&PostParams::default(), &object).await.unwrap();
            }
        })
        .await;
}

/// Changes the number of workers of a consumer.
pub async fn edit(client: &Client, number: usize, workers: u32) {
    let (namespace, name) = place(number);
    let api: Api<EventConsumer> = Api::namespaced(client.clone(), &namespace);
    let patch = Patch::Merge(json!({"spec": {"workers": workers}}));
    api.patch(&name, &PatchParams::default(), &patch).await.unwrap();
}

/// Whether the status of a consumer speaks of its present spec.
pub async fn is_told(client: &Client, number: usize) -> bool {
    let (namespace, name) = place(number);
    let object = Api::<EventConsumer>::namespaced(client.clone(), &namespace).get(&name).await.unwrap();
    object.status.is_some_and(|status| status.observed_generation == object.metadata.generation)
}

/// How many Deployments there are.
pub async fn deployments(client: &Client) -> usize {
    let api: Api<PartialObjectMeta<Deployment>> = Api::all(client.clone());
    let page = api.list(&ListParams::default().limit(1)).await.unwrap();
    page.items.len() + usize::try_from(page.metadata.remaining_item_count.unwrap_or_default()).unwrap()
}

/// As much of a consumer as tells whether its status speaks of its present spec. To read thousands of them whole would take
/// processor time from what is measured.
#[derive(Clone, Debug, Deserialize)]
struct Told {
    metadata: Generation,
    #[serde(default)]
    status: Observed,
}

#[derive(Clone, Debug, Deserialize)]
struct Generation {
    generation: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Observed {
    observed_generation: Option<i64>,
}

/// How many consumers have a status that speaks of their present spec.
pub async fn told(client: &Client) -> usize {
    let request = kube::core::Request::new(EventConsumer::url_path(&(), None));
    let (mut parameters, mut told) = (ListParams::default().limit(PAGE), 0);
    loop {
        let page: ObjectList<Told> = client.request(request.list(&parameters).unwrap()).await.unwrap();
        let speaks = |object: &&Told| object.status.observed_generation == Some(object.metadata.generation);
        told += page.items.iter().filter(speaks).count();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return told,
        }
    }
}
