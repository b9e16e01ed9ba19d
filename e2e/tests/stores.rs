//! Claims that outlive the pods that made them, on a real cluster: in Redis, and in a file on a volume.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use millrace_e2e::{cluster::Cluster, machine::cache, shop::Shop};

/// The volume of a cluster that makes none by itself.
const VOLUME: &str = "e2e-claims";

const PATIENCE: Duration = Duration::from_secs(240);

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
