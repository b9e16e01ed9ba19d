//! An API server, and operators on it.
#![allow(clippy::disallowed_methods, reason = "a task of a test ends with it")]
#![allow(dead_code, reason = "each program of tests uses a part of it")]

use std::{path::Path, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::NamespaceResourceScope,
};
use millrace_config::status::StatusReport;
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::{ApiServer, OperatorProcess, wait_for};
use operator::{
    build::{RuntimeImages, Settings, TraceSettings},
    context::Context,
    controller::reconcile_all,
    telemetry::Metrics,
    wake::Wake,
};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

/// The time in which the operator must have done what is waited for. Two looks at the pods of an unsettled consumer, and
/// a machine that has more to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An API server with the namespace `shop`.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
}

/// An operator that runs in this process.
pub(crate) struct Operator {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    metrics: Metrics,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::on(ApiServer::start().await).await
    }

    /// The same with an audit log.
    pub(crate) async fn start_audited() -> Self {
        Self::on(ApiServer::start_audited().await).await
    }

    pub(crate) async fn on(server: ApiServer) -> Self {
        server.make_namespace("shop").await;
        Self { server }
    }

    pub(crate) fn client(&self) -> Client {
        self.server.client()
    }

    /// The operator as a process, of a user who may do what it was granted.
    pub(crate) async fn process(&self, user: &str, environment: &[(&str, &str)]) -> OperatorProcess {
        let environment = [&[("POD_NAME", user), ("LOG_LEVEL", "info")], environment].concat();
        let program = Path::new(env!("CARGO_BIN_EXE_operator"));
        OperatorProcess::start_with(program, &self.server.kubeconfig(user), &environment).await
    }

    pub(crate) fn operator(&self) -> Operator {
        Operator::start(self.client())
    }

    /// Applies an example with some fields of its spec replaced.
    pub(crate) async fn apply(&self, example: &str, spec: Value) -> EventConsumer {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/examples/{example}.yaml"));
        let mut object: Value = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let objects: Api<EventConsumer> = Api::namespaced(self.client(), "shop");
        objects.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap()
    }

    pub(crate) async fn delete(&self, name: &str) {
        let objects: Api<EventConsumer> = Api::namespaced(self.client(), "shop");
        objects.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Deletes the children of objects that are gone: here nobody else does.
    pub(crate) async fn collect_garbage(&self) {
        let (parameters, all) = (DeleteParams::background(), ListParams::default());
        self.namespaced::<Deployment>().delete_collection(&parameters, &all).await.unwrap();
        self.namespaced::<Job>().delete_collection(&parameters, &all).await.unwrap();
        self.namespaced::<ConfigMap>().delete_collection(&parameters, &all).await.unwrap();
        self.namespaced::<ServiceAccount>().delete_collection(&parameters, &all).await.unwrap();
        self.namespaced::<PodDisruptionBudget>().delete_collection(&parameters, &all).await.unwrap();
    }

    fn namespaced<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client(), "shop")
    }

    pub(crate) async fn try_object(&self, name: &str) -> Option<EventConsumer> {
        Api::<EventConsumer>::namespaced(self.client(), "shop").get_opt(name).await.unwrap()
    }

    pub(crate) async fn object(&self, name: &str) -> EventConsumer {
        self.try_object(name).await.unwrap()
    }

    /// The status of `order-log`, when its children are made: it is the same as before that, as nothing here starts pods.
    pub(crate) async fn made(&self) -> Value {
        let deployments = self.namespaced::<Deployment>();
        wait_for("the Deployment", PATIENCE, || async { deployments.get_opt("order-log").await.unwrap() }).await;
        self.status_when("it is on its way", |status| condition(status, "Ready", "Unknown", "Progressing")).await
    }

    /// The status of `order-log`, when it is as `wanted`.
    pub(crate) async fn status_when(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let wanted = &wanted;
        wait_for(what, PATIENCE, || async move {
            let status = serde_json::to_value(self.try_object("order-log").await?.status).ok()?;
            wanted(&status).then_some(status)
        })
        .await
    }
}

/// What is the same for all consumers of a test.
pub(crate) fn settings() -> Settings {
    let images =
        RuntimeImages { nats: "millrace/consumer-runtime:test".to_owned(), kafka: "millrace/kafka:test".to_owned() };
    Settings { images, traces: TraceSettings::default(), http_allow: "".parse().unwrap() }
}

impl Operator {
    pub(crate) fn start(client: Client) -> Self {
        Self::with_wake(client, Wake::disabled())
    }

    pub(crate) fn with_wake(client: Client, wake: Wake) -> Self {
        let settings = settings();
        let metrics = Metrics::default();
        let context = Context::new(client, settings, metrics.clone()).with_wake(wake);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        Self { stop, task: tokio::spawn(reconcile_all(context, None, stopped)), metrics }
    }

    /// Reconciles so far.
    pub(crate) fn reconciles(&self) -> u64 {
        self.metrics.reconciles()
    }

    /// Stops it, after what it has begun.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}

/// Whether `status` has this condition.
pub(crate) fn condition(status: &Value, type_: &str, is: &str, reason: &str) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.clone().any(|found| found["type"] == type_ && found["status"] == is && found["reason"] == reason)
}

/// The report of a pod that works.
pub(crate) fn report(pending: u64, in_flight: u64, dead_letters: u64) -> StatusReport {
    serde_json::from_value(json!({
        "version": "0", "phase": "Running", "deliveryGuarantee": "AtLeastOnce", "totals": {},
        "lag": {"pending": pending, "inFlight": in_flight, "deadLetters": dead_letters},
    }))
    .unwrap()
}
