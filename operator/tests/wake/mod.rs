//! Protects scaling to no pods and back, with a real broker and a real API server: nothing waits for nobody, and what is not
//! known is never taken for nothing.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, consumer::pull, stream::Config};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use millrace_operator_testkit::{FakePod, wait_for};
use millrace_testkit::nats_server::{NatsServer, NatsServerOptions};
use operator::wake::{Wake, WakeSettings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Cluster, Operator, PATIENCE, condition, report};

const DURABLE: &str = "shop-order-log";

struct Shop {
    cluster: Cluster,
    nats: NatsServer,
    context: jetstream::Context,
    folder: TempDir,
}

impl Shop {
    /// A broker that asks for a login, and the Secret with it.
    async fn open() -> Self {
        let cluster = Cluster::start().await;
        let options =
            NatsServerOptions { jetstream: true, user: Some(("shop", "secret")), ..NatsServerOptions::default() };
        let nats = NatsServer::start(options).await;
        let login = async_nats::ConnectOptions::with_user_and_password("shop".to_owned(), "secret".to_owned());
        let context = jetstream::new(login.connect(nats.url()).await.unwrap());
        for (name, subject) in [("ORDERS", "orders.>"), ("DLQ", "dlq.>")] {
            let config = Config { name: name.to_owned(), subjects: vec![subject.to_owned()], ..Config::default() };
            context.create_stream(config).await.unwrap();
        }
        let secret =
            json!({"metadata": {"name": "nats-creds"}, "stringData": {"username": "shop", "password": "secret"}});
        let secrets: Api<Secret> = Api::namespaced(cluster.client(), "shop");
        secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
        Self { cluster, nats, context, folder: TempDir::new().unwrap() }
    }

    fn operator(&self, scale_to_zero: bool) -> Operator {
        let secrets_dir: PathBuf = self.folder.path().to_owned();
        Operator::with_wake(self.cluster.client(), Wake::new(WakeSettings { scale_to_zero, secrets_dir }))
    }

    async fn apply(&self) {
        let broker = json!({"jetStream": {"servers": [self.nats.url()], "stream": "ORDERS", "authSecretRef": {"name": "nats-creds"}}});
        let scaling = json!({"mode": "Lag", "minReplicas": 0, "maxReplicas": 5, "targetPendingPerReplica": 100, "cooldownSeconds": 1});
        self.cluster.apply("log", json!({"broker": broker, "subjects": ["orders.>"], "scaling": scaling})).await;
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.cluster.client(), "shop")
    }

    async fn replicas(&self, wanted: i32) -> Deployment {
        let deployments = &self.deployments();
        let is_there = || async move {
            deployments.get("order-log").await.ok().filter(|found| found.spec.replicas == Some(wanted))
        };
        wait_for(&format!("{wanted} replicas"), PATIENCE, is_there).await
    }

    /// The Deployment has what it was asked for: here nobody else says so.
    async fn rolled_out(&self) {
        let deployment = self.deployments().get("order-log").await.unwrap();
        let replicas = deployment.spec.replicas;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": replicas, "updatedReplicas": replicas,
            "readyReplicas": replicas, "availableReplicas": replicas,
        }});
        self.deployments().patch_status("order-log", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn publish(&self) {
        self.context.publish("orders.placed", "{}".into()).await.unwrap().await.unwrap();
    }
}

fn scaling(status: &Value, is: &str, reason: &str) -> bool {
    condition(status, "ScalingActive", is, reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_to_no_pods_when_nothing_waits_and_has_some_within_two_seconds_of_an_event() {
    let mut shop = Shop::open().await;
    let operator = shop.operator(true);
    shop.apply().await;

    // Its durable is there before any pod was, so nothing that comes is missed.
    let first = shop.replicas(0).await;
    assert_eq!(first.metadata.generation, Some(1), "there was never a pod");
    let stream = shop.context.get_stream("ORDERS").await.unwrap();
    let mut durable = stream.get_consumer::<pull::Config>(DURABLE).await.unwrap();
    shop.rolled_out().await;
    let asleep =
        |status: &Value| condition(status, "Ready", "True", "ScaledToZero") && scaling(status, "True", "Measured");
    let status = shop.cluster.status_when("it sleeps", asleep).await;
    assert_eq!(status["lag"]["pending"], 0);

    let published = Instant::now();
    shop.publish().await;
    shop.replicas(1).await;
    let awake = published.elapsed();
    println!("wake: milliseconds={}", awake.as_millis());
    assert!(awake <= Duration::from_secs(2), "{awake:?}");

    // While something is unacked, though nobody reports it, the last pod stays.
    let pod = FakePod::start(shop.cluster.client(), "shop", "order-log", report(0, 0, 0)).await;
    shop.rolled_out().await;
    let message = durable.fetch().max_messages(1).messages().await.unwrap();
    let message = futures::StreamExt::next(&mut Box::pin(message)).await.unwrap().unwrap();
    let visits = operator.reconciles();
    wait_for("the operator has looked again", PATIENCE, || async {
        (operator.reconciles() > visits + 1).then_some(())
    })
    .await;
    assert_eq!(durable.info().await.unwrap().num_ack_pending, 1);
    assert_eq!(shop.deployments().get("order-log").await.unwrap().spec.replicas, Some(1));
    message.double_ack().await.unwrap();
    shop.replicas(0).await;
    pod.delete().await;
    shop.rolled_out().await;
    shop.cluster.status_when("it sleeps again", asleep).await;

    // A broker that does not answer is not one that has nothing.
    shop.nats.kill();
    shop.replicas(1).await;
    shop.cluster.status_when("it says why", |status| status.to_string().contains("one pod stays")).await;
    operator.stop().await;
}

#[tokio::test]
async fn without_an_administrators_leave_one_pod_stays_and_no_secret_is_read() {
    let shop = Shop::open().await;
    let operator = shop.operator(false);
    shop.apply().await;

    shop.replicas(1).await;

    let told =
        shop.cluster.status_when("it says why", |status| scaling(status, "False", "ScaleToZeroNotEnabled")).await;
    assert!(told.to_string().contains("scaleToZero.enabled"), "{told}");
    assert_eq!(std::fs::read_dir(shop.folder.path()).unwrap().count(), 0);
    let stream = shop.context.get_stream("ORDERS").await.unwrap();
    assert!(stream.get_consumer::<pull::Config>(DURABLE).await.is_err(), "the operator has not been there");
    operator.stop().await;
}
