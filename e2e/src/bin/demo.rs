//! The demo: a shop whose events are published with duplicates and poison, each effect once. On a real cluster, or, asked for
//! with `CLUSTER=none` or where no cluster can be made, as processes of this machine.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "a demo that cannot go on says why and ends")]

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use millrace_e2e::{cluster::Cluster, local::Local, shop::Shop, table::Outcome, wait_for};

const NAMESPACE: &str = "millrace-demo";
const PATIENCE: Duration = Duration::from_secs(180);
const STREAM: [&str; 3] = ["--count=2000", "--duplicates-percent=10", "--poison=20"];

fn main() -> ExitCode {
    println!("2000 messages, 10 % of them repeated, 20 of them poison");
    let outcome =
        if env::var("CLUSTER").is_ok_and(|cluster| cluster == "none") { on_this_machine() } else { on_a_cluster() };
    outcome.print_line();
    if outcome.lost() == 0 && outcome.doubled() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn on_a_cluster() -> Outcome {
    let started = Instant::now();
    println!("bringing up the cluster and the operator ...");
    let cluster = Cluster::with_operator();
    let provider = cluster.provider.clone();
    let shop = Shop::open(cluster, NAMESPACE);
    shop.start_producer("producer", &[&STREAM[..], &["--rate=400"]].concat());
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
    let totals = shop.totals("order-emails");
    let mails = shop.mails();
    let analytics = shop.pods("shop-analytics").first().and_then(|pod| shop.status(pod["metadata"]["name"].as_str()?));
    let outcome = Outcome {
        cluster: provider,
        summary: shop.producer_summary("producer", PATIENCE),
        handled: totals.of("handled"),
        duplicates_skipped: totals.of("duplicatesSkipped"),
        dead_letters: totals.of("deadLetters"),
        reasons: shop.dead_letters_by_reason("order-emails"),
        mails: mails.values().sum(),
        unique_mails: u64::try_from(mails.len()).unwrap_or(u64::MAX),
        revenue: analytics
            .and_then(|status| Some(status["analytics"]["totalRevenue"].as_str()?.to_owned()))
            .unwrap_or_default(),
        duration: started.elapsed(),
    };
    outcome.print_table();
    println!("\n{}", shop.cluster.kubectl(&["-n", NAMESPACE, "get", "evc"]));
    outcome
}

fn on_this_machine() -> Outcome {
    let started = Instant::now();
    // The programs are beside this one.
    let binaries = env::current_exe().ok().and_then(|demo| Some(demo.parent()?.to_owned())).unwrap_or_default();
    let mut local = Local::start(binaries);
    let summary = local.produce(&STREAM);
    let (emails, analytics) = (local.apply_example("email"), local.apply_example("analytics"));
    wait_for("all events are handled", PATIENCE, || {
        println!("handled: e-mails {:>5}, analytics {:>5}", emails.total("handled"), analytics.total("handled"));
        (emails.is_idle() && analytics.is_idle()).then_some(())
    });
    let (mails, unique_mails) = local.mails();
    let revenue =
        analytics.reports().first().and_then(|report| Some(report["analytics"]["totalRevenue"].as_str()?.to_owned()));
    let outcome = Outcome {
        cluster: "none".to_owned(),
        summary,
        handled: emails.total("handled"),
        duplicates_skipped: emails.total("duplicatesSkipped"),
        dead_letters: emails.total("deadLetters"),
        reasons: emails.dead_letters_by_reason(),
        mails,
        unique_mails,
        revenue: revenue.unwrap_or_default(),
        duration: started.elapsed(),
    };
    outcome.print_table();
    outcome
}
