//! Protects namespaces that take restricted pods only: ours are let in, whatever broker, store and handler they are for.

use std::path::Path;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, api::PostParams};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::ApiServer;
use operator::{build::build, validate::validate};
use serde_json::{Value, json};

use crate::support::settings;

#[tokio::test]
async fn pods_of_every_example_are_let_into_a_restricted_namespace() {
    let server = ApiServer::start().await;
    let namespaces: Api<Namespace> = Api::all(server.client());
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = json!({"metadata": {"name": "strict", "labels": labels}});
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client(), "strict");
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    let admitted = async |spec: &Value| {
        let pod = json!({"metadata": {"name": "pod"}, "spec": spec});
        pods.create(&parameters, &serde_json::from_value(pod).unwrap()).await.map(drop)
    };

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.contains("kind: EventConsumer") {
            continue;
        }
        let mut object: EventConsumer = serde_yaml::from_str(&text).unwrap();
        object.metadata.namespace = Some("strict".to_owned());
        let deployment = build(&validate(&object).unwrap(), &settings()).unwrap().deployment;
        let spec = serde_json::to_value(deployment).unwrap()["spec"]["template"]["spec"].clone();
        admitted(&spec).await.unwrap_or_else(|error| panic!("{}: {error}", path.display()));

        // The namespace is as strict as it says.
        let mut loose = spec;
        loose["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        let refused = admitted(&loose).await.unwrap_err().to_string();
        assert!(refused.contains("PodSecurity"), "{refused}");
    }
}
