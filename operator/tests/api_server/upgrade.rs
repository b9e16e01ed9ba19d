//! Protects who has objects already: what was written under the first definition works under this one, as it is.

use std::path::Path;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::ConfigMap},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, CustomResourceExt as _, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::{ApiServer, wait_for};
use serde::Deserialize as _;
use serde_json::json;

use crate::support::{Cluster, PATIENCE};

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/first_version").join(name)).unwrap()
}

#[tokio::test]
async fn objects_of_the_first_definition_are_reconciled_changed_and_selected_under_this_one() {
    let first: CustomResourceDefinition = serde_yaml::from_str(&file("crd.yaml")).unwrap();
    let cluster = Cluster::on(ApiServer::start_with_definition(&first).await).await;
    let untyped: Api<DynamicObject> =
        Api::namespaced_with(cluster.client(), "shop", &ApiResource::erase::<EventConsumer>(&()));
    let mut names = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&file("objects.yaml")) {
        let mut object = DynamicObject::deserialize(document).unwrap();
        object.metadata.namespace = Some("shop".to_owned());
        names.push(untyped.create(&PostParams::default(), &object).await.unwrap().name_any());
    }
    assert_eq!(names.len(), 4);

    cluster.server.install(&EventConsumer::crd()).await;
    let operator = cluster.operator();

    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), "shop");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "shop");
    for name in &names {
        wait_for(&format!("{name} has its Deployment"), PATIENCE, || async {
            let status = cluster.object(name).await.status?;
            let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
            (ready.reason == "Progressing" && deployments.get_opt(name).await.unwrap().is_some()).then_some(())
        })
        .await;
        let config = maps.get(name).await.unwrap().data.unwrap();
        millrace_config::load(&config["config.yaml"]).unwrap();
        // What is not touched by a change must not make it fail.
        let changed = Patch::Merge(json!({"spec": {"workers": 3, "networkPolicy": {"mode": "Restricted"}}}));
        untyped.patch(name, &PatchParams::default(), &changed).await.unwrap();
    }

    let found = async |fields: &str| {
        let objects = Api::<EventConsumer>::namespaced(cluster.client(), "shop");
        let found = objects.list(&ListParams::default().fields(fields)).await.unwrap().items;
        found.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    assert_eq!(found("status.broker=NATS").await, ["core-log"]);
    assert_eq!(found("status.handler=email,spec.runState=Running").await, ["order-emails"]);
    operator.stop().await;
}
