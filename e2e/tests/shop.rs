//! The whole line on a real cluster: what is published has its effect once, also when pods are killed or replaced while
//! it flows.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millrace_e2e::{cluster::Cluster, shop::Shop, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(240);

/// Kills the container of a pod and waits until the kubelet has started it again.
fn kill_and_wait_for_restart(shop: &Shop, consumer: &str, pod: usize) {
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0);
    let before = &shop.pods(consumer)[pod];
    let name = before["metadata"]["name"].as_str().unwrap().to_owned();
    let killed = shop.cluster.run_script("deploy/cluster/kill", [before["metadata"]["uid"].as_str().unwrap()]);
    assert!(String::from_utf8_lossy(&killed.stdout).contains("killed"), "nothing was killed: {killed:?}");
    wait_for("the killed pod is started again", PATIENCE, || {
        let pods = shop.pods(consumer);
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name.as_str())?;
        (restarts(pod) > restarts(before)).then_some(())
    });
}

#[test]
fn five_thousand_events_have_their_effect_once_while_a_pod_is_killed_twice() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-shop");
    let arguments = ["--count=5000", "--rate=250", "--duplicates-percent=10", "--poison=20"];
    shop.start_producer("producer", &arguments);
    shop.apply_example("email", |yaml| yaml.replace("attemptTimeoutSeconds: 10", "attemptTimeoutSeconds: 5"));
    shop.apply_example("analytics", |yaml| yaml);
    shop.wait_ready("order-emails");
    shop.wait_ready("shop-analytics");

    for _ in 0..2 {
        let before = shop.totals("order-emails").of("deliveries");
        wait_for("events flow", PATIENCE, || {
            (shop.totals("order-emails").of("deliveries") > before + 50).then_some(())
        });
        kill_and_wait_for_restart(&shop, "order-emails", 0);
    }

    let summary = shop.producer_summary("producer", PATIENCE);
    shop.wait_drained("e2e-shop-order-emails", PATIENCE);
    shop.wait_drained("e2e-shop-shop-analytics", PATIENCE);
    let mails = shop.mails();
    assert_eq!(mails.len() as u64, summary["emails"].as_u64().unwrap(), "an e-mail for each event, none lost");
    let extra: u64 = mails.values().map(|copies| copies - 1).sum();
    // The crash window: at most what the two kills found at work, 16 workers each, and each of them counted.
    assert!(extra <= 32, "{extra} e-mails were sent twice");
    let counted = shop.totals("order-emails").of("possibleDuplicates");
    assert!(extra <= counted + 16, "{extra} doubled, {counted} counted by the pods that are left");

    let analytics = shop.pods("shop-analytics");
    let status = shop.status(analytics[0]["metadata"]["name"].as_str().unwrap()).unwrap();
    assert_eq!(status["analytics"]["totalRevenue"], summary["total_revenue"].to_string(), "equal to the cent");
    assert_eq!(status["analytics"]["orders"], summary["orders"]);
    assert_eq!(status["analytics"]["paymentsFailed"], summary["payments_failed"]);
    for (method, amount) in summary["amount_by_payment_method"].as_object().unwrap() {
        assert_eq!(status["analytics"]["amountByPaymentMethod"][method], amount.to_string(), "{method}");
    }
    let expected: BTreeMap<String, u64> = serde_json::from_value(summary["poison_by_reason"].clone()).unwrap();
    assert_eq!(shop.dead_letters_by_reason("shop-analytics"), expected);
    // Twenty for each of the two consumers, none twice, and each with the bytes that it had.
    let dead_letters = shop.dead_letters();
    assert_eq!(dead_letters.len(), 40);
    for consumer in ["order-emails", "shop-analytics"] {
        let of: Vec<_> =
            dead_letters.iter().filter(|letter| letter.consumer == format!("e2e-shop/{consumer}")).collect();
        let mut reasons = BTreeMap::new();
        for letter in &of {
            *reasons.entry(letter.reason.clone()).or_default() += 1;
            assert_eq!(letter.payload, letter.original, "{letter:?}");
        }
        assert_eq!(reasons, expected, "{consumer}");
        let origins: BTreeSet<_> = of.iter().map(|letter| letter.origin.to_string()).collect();
        assert_eq!(origins.len(), 20, "{consumer}: one for each message");
    }
    shop.close();
}

#[test]
fn a_pod_that_is_deleted_under_load_drains_clean_and_nothing_waits_for_the_ack_wait() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-drain");
    shop.start_producer("producer", &["--count=3000", "--rate=200"]);
    shop.apply_example("email", |yaml| yaml);
    shop.wait_ready("order-emails");
    wait_for("events flow", PATIENCE, || (shop.totals("order-emails").of("handled") > 100).then_some(()));

    let leaving = shop.pods("order-emails")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let namespace = shop.namespace.clone();
    // The log is followed from before the end, because it goes with the pod.
    let cluster = shop.cluster.clone();
    let (pod, of) = (leaving.clone(), namespace.clone());
    let log = std::thread::spawn(move || cluster.kubectl(&["-n", &of, "logs", "--follow", &format!("pod/{pod}")]));
    shop.cluster.kubectl(&["-n", &namespace, "delete", "pod", &leaving, "--wait", "--timeout=60s"]);
    let log = log.join().unwrap();
    assert!(log.contains("drained clean"), "{}", log.lines().rev().take(5).collect::<Vec<_>>().join("\n"));
    let handed_back: u64 = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|line| line["handed_back"].as_u64())
        .unwrap();

    let summary = shop.producer_summary("producer", PATIENCE);
    shop.wait_drained("e2e-drain-order-emails", PATIENCE);
    let mails = shop.mails();
    assert_eq!(mails.len() as u64, summary["emails"].as_u64().unwrap());
    assert!(mails.values().all(|copies| *copies == 1), "nothing was sent twice");
    let totals = shop.totals("order-emails");
    assert!(
        totals.of("redeliveries") <= handed_back,
        "{} redeliveries, {handed_back} handed back unstarted",
        totals.of("redeliveries")
    );
    assert_eq!(totals.of("possibleDuplicates"), 0);
    shop.close();
}
