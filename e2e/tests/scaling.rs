//! Backlogs of 20,000 orders on a real cluster: replicas follow them up and down, and each order is reserved once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{collections::BTreeMap, time::Duration};

use millrace_e2e::{cluster::Cluster, shop::Shop, wait_for};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(240);

/// A shop with a stock of everything in PostgreSQL, in which the consumer `inventory` reserves.
struct Warehouse {
    shop: Shop,
}

impl Warehouse {
    fn open(cluster: Cluster, namespace: &str) -> Self {
        let shop = Shop::open(cluster, namespace);
        shop.cluster.load_servers();
        shop.apply_manifest("postgres");
        Self { shop }
    }

    /// Makes the consumer, which takes nothing yet. It is no faster than that, so that a backlog lasts longer than pods take to
    /// start.
    fn apply(&self, broker: &Value, subject: &str, dead_letters: &str, scaling: &Value) {
        let consumer = json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "EventConsumer", "metadata": {"name": "inventory"},
            "spec": {
                "runState": "Paused", "broker": broker, "subjects": [subject], "scaling": scaling, "handler": {"inventory": {}},
                "idempotency": {"mode": "Transactional", "store": {"postgres": {"connectionSecretRef": {"name": "shop-db"}}}},
                "delivery": {"rateLimit": {"eventsPerSecond": 250}, "deadLetter": {"subject": dead_letters}},
            },
        });
        self.shop.cluster.apply(&self.shop.namespace, &consumer.to_string()).unwrap();
        wait_for("the tables are there", PATIENCE, || {
            (self.query("SELECT to_regclass('millrace.reservations') IS NOT NULL") == "t").then_some(())
        });
    }

    /// Puts into stock what the producer's orders ask for, and lets the consumer take them.
    fn open_with(&self, summary: &Value) {
        for product in summary["quantity_by_product"].as_object().unwrap().keys() {
            self.query(&format!("INSERT INTO millrace.stock (product_id, available) VALUES ('{product}', 1000000)"));
        }
        let run = json!({"spec": {"runState": "Running"}}).to_string();
        let namespace = &self.shop.namespace;
        self.shop.cluster.kubectl(&["-n", namespace, "patch", "evc", "inventory", "--type=merge", "-p", &run]);
    }

    /// What a query gives: a line for each row.
    fn query(&self, sql: &str) -> String {
        let psql = ["exec", "deployment/postgres", "--", "psql", "-U", "shop", "-d", "postgres", "-AtF=", "-c", sql];
        self.shop.cluster.kubectl(&[&["-n", &self.shop.namespace][..], &psql].concat()).trim().to_owned()
    }

    fn wait_replicas(&self, count: u64) {
        wait_for(&format!("there are {count} replicas"), PATIENCE, || {
            let consumer = self.shop.cluster.get(&self.shop.namespace, &["evc", "inventory"])?;
            (consumer["status"]["replicas"].as_u64()? == count).then_some(())
        });
    }

    /// Waits until all of the producer's orders are reserved, and finds that each of them is once.
    fn wait_reserved(&self, summary: &Value) {
        let orders = summary["orders"].to_string();
        wait_for("every order is reserved", PATIENCE, || {
            (self.query("SELECT count(DISTINCT event_id) FROM millrace.reservations") == orders).then_some(())
        });
        let reserved = self.query("SELECT product_id, sum(quantity) FROM millrace.reservations GROUP BY product_id");
        let reserved: BTreeMap<_, _> = reserved.lines().map(|line| line.split_once('=').unwrap()).collect();
        for (product, quantity) in summary["quantity_by_product"].as_object().unwrap() {
            assert_eq!(reserved[product.as_str()], quantity.to_string(), "{product}: each order once");
        }
    }
}

#[test]
fn a_backlog_on_kafka_is_reserved_once_by_as_many_pods_as_it_has_partitions_and_then_by_one() {
    let warehouse = Warehouse::open(Cluster::with_operator(), "e2e-kafka");
    let shop = &warehouse.shop;
    shop.apply_manifest("kafka");
    shop.start_producer_to_kafka("producer", &["--count=60000", "--duplicates-percent=10", "--poison=20"]);
    let summary = shop.producer_summary("producer", PATIENCE);
    warehouse.apply(
        &json!({"kafka": {"bootstrapServers": ["kafka:9092"]}}),
        "orders.placed",
        "dlq",
        &json!({"mode": "Lag", "maxReplicas": 8, "targetPendingPerReplica": 1000, "cooldownSeconds": 5}),
    );
    warehouse.open_with(&summary);

    warehouse.wait_replicas(4);
    warehouse.wait_reserved(&summary);
    warehouse.wait_replicas(1);
    let ends =
        "java -cp '/kafka/libs/*' org.apache.kafka.tools.GetOffsetShell --bootstrap-server kafka:9092 --topic dlq";
    let ends = ["-n", &shop.namespace, "exec", "deployment/kafka", "--", "sh", "-c", ends];
    assert_eq!(shop.cluster.kubectl(&ends).trim(), "dlq:0:20", "each poisonous message is one dead letter");
    warehouse.shop.close();
}

#[test]
fn a_backlog_on_jetstream_wakes_pods_where_there_are_none_and_sends_them_to_sleep_when_each_order_is_reserved() {
    let cluster = Cluster::with_operator();
    cluster.install_with(&["--set", "scaleToZero.enabled=true"]);
    let warehouse = Warehouse::open(cluster, "e2e-sleep");
    let shop = &warehouse.shop;
    // This makes the streams, and says what there is to buy.
    shop.start_producer("first", &["--count=500"]);
    let first = shop.producer_summary("first", PATIENCE);
    warehouse.apply(
        &json!({"jetStream": {"servers": ["nats://nats:4222"], "stream": "ORDERS", "initialPosition": "New"}}),
        "orders.placed",
        "dlq.inventory",
        &json!({"mode": "Lag", "minReplicas": 0, "maxReplicas": 4, "targetPendingPerReplica": 1000, "cooldownSeconds": 5}),
    );
    warehouse.open_with(&first);
    warehouse.wait_replicas(0);

    shop.start_producer("producer", &["--count=60000", "--duplicates-percent=10", "--seed=2"]);
    let summary = shop.producer_summary("producer", PATIENCE);
    warehouse.wait_replicas(4);
    warehouse.wait_reserved(&summary);
    warehouse.wait_replicas(0);
    wait_for("no pod is left", PATIENCE, || shop.pods("inventory").is_empty().then_some(()));
    shop.cluster.install();
    warehouse.shop.close();
}
