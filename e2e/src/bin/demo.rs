//! The demo: a shop on a real cluster, its events published with duplicates and poison, each effect once.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "a demo that cannot go on says why and ends")]

use std::time::{Duration, Instant};

use millrace_e2e::{cluster::Cluster, shop::Shop, wait_for};
use serde_json::Value;

const NAMESPACE: &str = "millrace-demo";
const PATIENCE: Duration = Duration::from_secs(180);

fn main() {
    let started = Instant::now();
    println!("bringing up the cluster and the operator ...");
    let cluster = Cluster::with_operator();
    let provider = cluster.provider.clone();
    let shop = Shop::open(cluster, NAMESPACE);
    println!("publishing 2000 messages, 10 % of them twice, 20 of them poison ...");
    let arguments = ["--count=2000", "--rate=400", "--duplicates-percent=10", "--poison=20"];
    shop.start_producer("producer", &arguments);
    shop.apply_example("email", |yaml| yaml);
    shop.apply_example("analytics", |yaml| yaml);
    for consumer in ["order-emails", "shop-analytics"] {
        shop.wait_ready(consumer);
    }
    wait_for("all events are handled", PATIENCE, || {
        let (emails, analytics) = (shop.totals("order-emails"), shop.totals("shop-analytics"));
        println!("handled: e-mails {:>5}, analytics {:>5}", emails.of("handled"), analytics.of("handled"));
        let job = shop.cluster.get(NAMESPACE, &["job", "producer"])?;
        let durables = [format!("{NAMESPACE}-order-emails"), format!("{NAMESPACE}-shop-analytics")];
        let idle = durables.iter().all(|durable| shop.pending(durable) == Some((0, 0)));
        (job["status"]["succeeded"] == 1 && idle).then_some(())
    });
    let summary = shop.producer_summary("producer", PATIENCE);
    let lost_or_doubled = report(&shop, &summary, &provider, started);
    if lost_or_doubled {
        std::process::exit(1);
    }
}

/// Prints the table and the closing line. Whether anything was lost or doubled.
fn report(shop: &Shop, summary: &Value, provider: &str, started: Instant) -> bool {
    let count = |field: &str| summary[field].as_u64().unwrap_or_default();
    let totals = shop.totals("order-emails");
    let mails = shop.mails();
    let received: u64 = mails.values().sum();
    let doubled: u64 = mails.values().map(|copies| copies - 1).sum();
    let unique_mails = u64::try_from(mails.len()).unwrap_or(u64::MAX);
    let analytics = shop.pods("shop-analytics").first().and_then(|pod| shop.status(pod["metadata"]["name"].as_str()?));
    let revenue = analytics.map(|status| status["analytics"]["totalRevenue"].clone()).unwrap_or_default();
    // An event is lost if it was neither handled nor dead-lettered, or its e-mail never came.
    let accounted = totals.of("handled") + totals.of("deadLetters");
    let lost =
        (count("unique") + count("poison")).saturating_sub(accounted).max(count("emails").saturating_sub(unique_mails));
    println!();
    for (name, value) in [
        ("published", count("published").to_string()),
        ("  unique events", count("unique").to_string()),
        ("duplicates skipped", totals.of("duplicatesSkipped").to_string()),
        ("handled", totals.of("handled").to_string()),
        ("e-mails due", count("emails").to_string()),
        ("e-mails received by the sink", received.to_string()),
        ("revenue, by the producer", summary["total_revenue"].to_string()),
        ("revenue, by analytics", revenue.as_str().unwrap_or("?").to_owned()),
        ("dead letters", totals.of("deadLetters").to_string()),
    ] {
        println!("{name:<30} {value:>12}");
    }
    for (reason, letters) in shop.dead_letters_by_reason("order-emails") {
        println!("  {reason:<28} {letters:>12}");
    }
    println!("\n{}", shop.cluster.kubectl(&["-n", NAMESPACE, "get", "evc"]));
    println!(
        "demo: cluster={provider} published={} unique={} handled={} duplicates_skipped={} dead_letters={} lost={lost} doubled={doubled} seconds={:.0}",
        count("published"),
        count("unique"),
        totals.of("handled"),
        totals.of("duplicatesSkipped"),
        totals.of("deadLetters"),
        started.elapsed().as_secs_f64(),
    );
    lost > 0 || doubled > 0
}
