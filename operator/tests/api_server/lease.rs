//! Protects that of several operators one writes, whoever is paused, ends or has a wrong clock. The operators are processes, and
//! the audit log of a real API server says who wrote when.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use millrace_operator_api::EventConsumer;
use millrace_operator_testkit::wait_for;
use millrace_testkit::signal::Signal;
use operator::rbac;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::Cluster;

/// For which the holder of the lease writes after a renewal, as by default.
const RENEW_DEADLINE: SignedDuration = SignedDuration::from_secs(10);

/// Writes after which a leader is taken to be at work.
const AT_WORK: usize = 10;

/// The longest that nobody leads after the leader was stopped: its lease, two tries, and a machine that has more to do.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn one_operator_writes_at_every_moment_though_leaders_are_paused_or_end_and_a_clock_is_an_hour_ahead() {
    let cluster = Cluster::start_audited().await;
    let folder = TempDir::new().unwrap();
    let clock = shifted_clock(folder.path());
    let start = async |user: &str, more: &[(&str, &str)]| {
        cluster.process(user, &[&[("LEADER_ELECTION", "true")], more].concat()).await
    };
    for user in ["first", "second", "third"] {
        cluster.server.grant(user, None, &rbac::rules()).await;
        cluster.server.grant(user, Some("default"), &rbac::lease_rules("millrace-operator")).await;
    }
    // Something to write, all the time: so whoever is stopped is stopped at work.
    cluster.apply("log", json!({})).await;
    let churn = churn(&cluster);
    tokio::pin!(churn);

    let run = async {
        let mut first = start("first", &[]).await;
        leads(&cluster, "first").await;
        let mut second = start("second", &[("LD_PRELOAD", clock.to_str().unwrap())]).await;
        wait_for("it stands by", TAKEOVER_LIMIT, || async { second.log().contains("standing by").then_some(()) }).await;

        // Paused at work for longer than its lease, and woken: it must not write, and ends.
        first.signal(Signal::STOP);
        let after_pause = leads(&cluster, "second").await;
        first.signal(Signal::CONT);
        let ended = first.ended(Duration::from_secs(10)).await;
        assert!(!ended.success() && first.log().contains("the lease is lost"), "{}", first.log());

        // The one with the wrong clock leads now; told to stop, it releases the lease.
        let mut third = start("third", &[]).await;
        wait_for("it stands by", TAKEOVER_LIMIT, || async { third.log().contains("standing by").then_some(()) }).await;
        second.signal(Signal::TERM);
        let after_term = leads(&cluster, "third").await;
        assert!(second.ended(Duration::from_secs(10)).await.success(), "{}", second.log());

        // Killed, it releases nothing.
        let fourth = start("first", &[]).await;
        wait_for("it stands by", TAKEOVER_LIMIT, || async { fourth.log().contains("standing by").then_some(()) }).await;
        third.signal(Signal::KILL);
        third.ended(Duration::from_secs(10)).await;
        let after_kill = leads(&cluster, "first").await;
        println!(
            "lease: takeover_after_pause_ms={} takeover_after_sigterm_ms={} takeover_after_kill_ms={}",
            after_pause.as_millis(),
            after_term.as_millis(),
            after_kill.as_millis()
        );
        assert!(after_term < Duration::from_secs(10), "a lease that was released is taken at the next try");
    };
    tokio::select! {
        () = run => {}
        () = &mut churn => {}
    }

    let lease = lease(&cluster).await.unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(3));
    let (writes, leaders) = one_writer_at_every_moment(&cluster.server.audit());
    assert_eq!(leaders, ["first", "second", "third", "first"]);
    assert!(writes >= 4 * AT_WORK, "the audit log has what was written: {writes}");
}

/// Changes the spec again and again.
async fn churn(cluster: &Cluster) {
    let objects: Api<EventConsumer> = Api::namespaced(cluster.client(), "shop");
    for workers in (1..4000).cycle() {
        let patch = Patch::Merge(json!({"spec": {"workers": workers}}));
        objects.patch("order-log", &PatchParams::default(), &patch).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn lease(cluster: &Cluster) -> Option<Lease> {
    Api::<Lease>::namespaced(cluster.client(), "default").get_opt("millrace-operator").await.unwrap()
}

/// Waits until this one holds the lease and is at work, and says how long the first took.
async fn leads(cluster: &Cluster, name: &str) -> Duration {
    let since = Instant::now();
    let written = || cluster.server.audit().iter().filter(|entry| is_write(entry) && is_work_of(name, entry)).count();
    let before = written();
    wait_for(&format!("{name} leads"), TAKEOVER_LIMIT, || async {
        let holder = lease(cluster).await?.spec?.holder_identity?;
        holder.starts_with(&format!("{name}_")).then_some(())
    })
    .await;
    let after = since.elapsed();
    let at_work = || async { (written() >= before + AT_WORK).then_some(()) };
    wait_for(&format!("{name} is at work"), TAKEOVER_LIMIT, at_work).await;
    after
}

fn is_work_of(name: &str, entry: &Value) -> bool {
    entry["user"]["username"] == name && entry["objectRef"]["resource"] != "leases"
}

/// Walks through the audit log: every write is that of the holder of the lease, no later than the deadline after a renewal
/// of its. Says how many there were, and who led, in their order.
fn one_writer_at_every_moment(audit: &[Value]) -> (usize, Vec<String>) {
    let time = |entry: &Value, field: &str| -> Timestamp { entry[field].as_str().unwrap().parse().unwrap() };
    let mut entries: Vec<_> = audit.iter().filter(|entry| is_write(entry)).collect();
    entries.sort_by_key(|entry| time(entry, "requestReceivedTimestamp"));
    let (mut holder, mut renewed, mut writes, mut leaders) = (String::new(), None::<Timestamp>, 0, Vec::new());
    for entry in entries {
        let user = entry["user"]["username"].as_str().unwrap();
        let received = time(entry, "requestReceivedTimestamp");
        if entry["objectRef"]["resource"] == "leases" {
            if entry["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300) {
                let identity = entry["requestObject"]["spec"]["holderIdentity"].as_str().unwrap();
                if !identity.is_empty() && !identity.starts_with(&format!("{holder}_")) {
                    leaders.push(user.to_owned());
                }
                user.clone_into(&mut holder);
                // Released: from now on nobody writes.
                renewed = (!identity.is_empty()).then_some(time(entry, "stageTimestamp"));
            }
            continue;
        }
        writes += 1;
        assert_eq!(user, holder, "only the holder writes: {entry}");
        let deadline = renewed.expect("who released the lease writes no more") + RENEW_DEADLINE;
        assert!(received <= deadline, "it writes until its deadline: {entry}");
    }
    (writes, leaders)
}

fn is_write(entry: &Value) -> bool {
    entry["verb"].as_str().is_some_and(|verb| matches!(verb, "create" | "update" | "patch" | "delete"))
}

/// A library that makes the wall clock of whoever loads it an hour ahead. Where Rust links, there is a C compiler.
fn shifted_clock(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api_server/shifted_clock.c");
    let library = folder.join("shifted_clock.so");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.unwrap().success(), "cc cannot build {}", source.display());
    library
}
