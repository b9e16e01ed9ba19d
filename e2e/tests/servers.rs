//! The other brokers and stores on a real cluster: Kafka, PostgreSQL, Redis, and a volume.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use millrace_e2e::{cluster::Cluster, machine::cache, shop::Shop, wait_for};
use serde_json::Value;

/// The volume of a cluster that makes none by itself.
const VOLUME: &str = "e2e-claims";

const PATIENCE: Duration = Duration::from_secs(240);

/// Orders of a backlog, reserved in PostgreSQL. It waits until there is stock.
const INVENTORY: &str = "
apiVersion: millrace.dev/v1alpha1
kind: EventConsumer
metadata: {name: inventory}
spec:
  broker: {kafka: {bootstrapServers: ['kafka:9092']}}
  subjects: [orders.placed, orders.shipped, payments.processed]
  runState: Paused
  scaling: {mode: Lag, maxReplicas: 8, targetPendingPerReplica: 1000, cooldownSeconds: 5}
  idempotency: {mode: Transactional, store: {postgres: {connectionSecretRef: {name: shop-db}}}}
  handler: {inventory: {}}
  delivery: {deadLetter: {subject: dlq}}
";

/// What a query gives: a line for each row.
fn query(shop: &Shop, sql: &str) -> String {
    let psql = ["exec", "deployment/postgres", "--", "psql", "-U", "shop", "-d", "postgres", "-AtF=", "-c", sql];
    shop.cluster.kubectl(&[&["-n", &shop.namespace][..], &psql].concat()).trim().to_owned()
}

fn consumer(shop: &Shop, name: &str) -> Option<Value> {
    shop.cluster.get(&shop.namespace, &["evc", name])
}

#[test]
fn a_backlog_on_kafka_is_reserved_once_by_as_many_pods_as_it_has_partitions_and_then_by_one() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-kafka");
    shop.cluster.load_servers();
    shop.apply_manifest("kafka");
    shop.apply_manifest("postgres");
    shop.start_producer_to_kafka("producer", &["--count=20000", "--duplicates-percent=10", "--poison=20"]);
    let summary = shop.producer_summary("producer", PATIENCE);
    shop.cluster.apply(&shop.namespace, INVENTORY).unwrap();
    wait_for("the tables are there", PATIENCE, || {
        (query(&shop, "SELECT to_regclass('millrace.reservations') IS NOT NULL") == "t").then_some(())
    });
    let products: Vec<_> = summary["quantity_by_product"].as_object().unwrap().keys().collect();
    for product in &products {
        query(&shop, &format!("INSERT INTO millrace.stock (product_id, available) VALUES ('{product}', 1000000)"));
    }

    let run = "spec: {runState: Running}";
    shop.cluster.kubectl(&["-n", &shop.namespace, "patch", "evc", "inventory", "--type=merge", "-p", run]);
    let desired = || consumer(&shop, "inventory")?["status"]["replicas"].as_u64();
    wait_for("there are as many pods as partitions", PATIENCE, || (desired()? == 4).then_some(()));
    let orders = summary["orders"].to_string();
    wait_for("every order is reserved", PATIENCE, || {
        (query(&shop, "SELECT count(DISTINCT event_id) FROM millrace.reservations") == orders).then_some(())
    });
    wait_for("one pod is left", PATIENCE, || (desired()? == 1).then_some(()));

    let reserved = query(&shop, "SELECT product_id, sum(quantity) FROM millrace.reservations GROUP BY product_id");
    let reserved: BTreeMap<_, _> = reserved.lines().map(|line| line.split_once('=').unwrap()).collect();
    for product in products {
        let expected = summary["quantity_by_product"][product].to_string();
        assert_eq!(reserved[product.as_str()], expected, "{product}: each order once");
    }
    let ends =
        "java -cp '/kafka/libs/*' org.apache.kafka.tools.GetOffsetShell --bootstrap-server kafka:9092 --topic dlq";
    let ends = ["-n", &shop.namespace, "exec", "deployment/kafka", "--", "sh", "-c", ends];
    assert_eq!(shop.cluster.kubectl(&ends).trim(), "dlq:0:20", "each poisonous message is one dead letter");
    shop.close();
}

/// A volume for a consumer that asks for one, where the cluster makes none by itself: a folder of this machine, which is
/// the node.
fn offer_volume(shop: &Shop) {
    let classes = shop.cluster.get("default", &["storageclass"]).unwrap();
    if !classes["items"].as_array().unwrap().is_empty() {
        return;
    }
    assert_eq!(shop.cluster.provider, "local", "the cluster has no storage class");
    let folder = cache().join("cluster/volume");
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let volume = serde_json::json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": VOLUME},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": folder}, "claimRef": {"namespace": shop.namespace, "name": "order-ledger-claims"},
        },
    });
    drop(shop.cluster.try_kubectl(&["delete", "persistentvolume", VOLUME, "--wait"], ""));
    shop.cluster.apply("default", &volume.to_string()).unwrap();
}

#[test]
fn claims_in_redis_and_on_a_volume_outlive_the_pods_that_made_them() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-stores");
    shop.cluster.load_servers();
    shop.apply_manifest("redis");
    offer_volume(&shop);
    shop.start_producer("first", &["--count=2000", "--duplicates-percent=10"]);
    shop.producer_summary("first", PATIENCE);
    let consumers = ["order-shared", "order-ledger"];
    for (example, consumer) in ["redis-store", "embedded-store"].into_iter().zip(consumers) {
        shop.apply_example(example, |yaml| yaml);
        shop.wait_ready(consumer);
        shop.wait_drained(&format!("e2e-stores-{consumer}"), PATIENCE);
    }
    let handled = consumers.map(|consumer| shop.totals(consumer).of("handled"));
    assert!(handled[0] > 0 && handled[0] == handled[1], "each event of orders.> once: {handled:?}");

    for consumer in consumers {
        let selector = format!("millrace.dev/consumer={consumer}");
        shop.cluster.kubectl(&["-n", &shop.namespace, "delete", "pods", "-l", &selector, "--wait", "--timeout=60s"]);
        shop.wait_ready(consumer);
    }
    // The same seed gives the same events.
    shop.start_producer("second", &["--count=2000", "--duplicates-percent=10"]);
    shop.producer_summary("second", PATIENCE);
    for consumer in consumers {
        shop.wait_drained(&format!("e2e-stores-{consumer}"), PATIENCE);
        let totals = shop.totals(consumer);
        assert!(totals.of("deliveries") >= handled[0], "{consumer}: all of them came again: {totals:?}");
        assert_eq!(totals.of("handled"), 0, "{consumer} knows them all: {totals:?}");
    }
    let cluster = shop.cluster.clone();
    shop.close();
    // Outside the namespace, where it was made.
    cluster.kubectl(&["delete", "persistentvolume", VOLUME, "--ignore-not-found"]);
}
