//! Dead letters on a real cluster: the cause is mended, a dry run shows them, and an object puts them back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::time::Duration;

use millrace_e2e::{cluster::Cluster, shop::Shop, wait_for};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Has the mail sink take nobody's mail, or everybody's. It forgets what it had.
fn refuse_mail(shop: &Shop, refuse: bool) {
    let setting = if refuse { "MP_SMTP_ALLOWED_RECIPIENTS=^nobody@" } else { "MP_SMTP_ALLOWED_RECIPIENTS-" };
    shop.cluster.kubectl(&["-n", &shop.namespace, "set", "env", "deployment/mailpit", setting]);
    shop.cluster.kubectl(&["-n", &shop.namespace, "rollout", "status", "deployment/mailpit", "--timeout=90s"]);
}

fn replay(shop: &Shop, name: &str, spec: &str) {
    let yaml = format!(
        "apiVersion: millrace.dev/v1alpha1\nkind: DeadLetterReplay\nmetadata: {{name: {name}}}\nspec: {{consumerRef: {{name: order-emails}}, {spec}}}\n"
    );
    shop.cluster.apply(&shop.namespace, &yaml).unwrap();
}

/// The status of a replay that has ended, as `kubectl wait` sees it.
fn ended(shop: &Shop, name: &str) -> Value {
    let what = format!("dlr/{name}");
    shop.cluster.kubectl(&["-n", &shop.namespace, "wait", &what, "--for=condition=Ready", "--timeout=120s"]);
    shop.cluster.get(&shop.namespace, &["dlr", name]).unwrap()["status"].clone()
}

fn counts(status: &Value) -> [u64; 4] {
    ["matched", "succeeded", "failed", "parked"].map(|name| status[name].as_u64().unwrap())
}

#[test]
fn events_that_died_of_a_cause_that_is_mended_are_shown_by_a_dry_run_and_each_handled_by_a_replay() {
    let shop = Shop::open(Cluster::with_operator(), "e2e-replay");
    refuse_mail(&shop, true);
    shop.start_producer("producer", &["--count=60"]);
    let due = shop.producer_summary("producer", PATIENCE)["emails"].as_u64().unwrap();
    shop.apply_example("email", |yaml| yaml);
    shop.wait_ready("order-emails");
    shop.wait_drained("e2e-replay-order-emails", PATIENCE);
    assert_eq!(shop.dead_letters().len() as u64, due, "the mail server refuses every e-mail");
    refuse_mail(&shop, false);
    shop.wait_ready("order-emails");

    replay(&shop, "show", "dryRun: All, filter: {reasons: [HandlerRejected]}");
    let shown = ended(&shop, "show");
    assert_eq!(counts(&shown), [due, 0, 0, 0], "{shown}");
    assert_eq!(shown["letters"].as_array().unwrap().len() as u64, due.min(20), "{shown}");
    let log = shop.cluster.kubectl(&["-n", &shop.namespace, "logs", "job/show-replay"]);
    assert_eq!(log.matches("\tHandlerRejected\t").count() as u64, due, "{log}");
    assert_eq!((shop.dead_letters().len() as u64, shop.mails().len()), (due, 0), "nothing was done");

    replay(&shop, "some", "maxMessages: 5");
    assert_eq!(counts(&ended(&shop, "some")), [5, 5, 0, 0]);
    let mails = shop.mails();
    assert_eq!((mails.len(), mails.values().sum::<u64>()), (5, 5), "each once");

    // The rest, by a process that dies on the way.
    replay(&shop, "rest", "messagesPerSecond: 2");
    let pod = wait_for("it is at work", PATIENCE, || {
        let pods = shop.cluster.get(&shop.namespace, &["pods", "-l", "batch.kubernetes.io/job-name=rest-replay"])?;
        (shop.mails().len() > 8).then(|| pods["items"][0].clone())
    });
    let killed = shop.cluster.run_script("deploy/cluster/kill", [pod["metadata"]["uid"].as_str().unwrap()]);
    assert!(String::from_utf8_lossy(&killed.stdout).contains("killed"), "nothing was killed: {killed:?}");
    let rest = ended(&shop, "rest");
    assert_eq!(counts(&rest), [due - 5, due - 5, 0, 0], "{rest}");
    let mails = shop.mails();
    assert_eq!((mails.len() as u64, shop.dead_letters().len()), (due, 0), "all are handled");
    // What it had in hand when it died.
    assert!(mails.values().sum::<u64>() <= due + 16, "{mails:?}");

    let columns = shop.cluster.kubectl(&["-n", &shop.namespace, "get", "dlr"]);
    assert!(columns.lines().next().unwrap().contains("SUCCEEDED"), "{columns}");
    shop.cluster.kubectl(&["-n", &shop.namespace, "delete", "dlr", "--all", "--wait"]);
    wait_for("their Jobs are gone", PATIENCE, || {
        let jobs = shop.cluster.get(&shop.namespace, &["jobs", "-l", "app.kubernetes.io/name=millrace-replay"])?;
        jobs["items"].as_array()?.is_empty().then_some(())
    });
    shop.close();
}
