//! Large messages and a receiver that is slow: what is held is bounded in bytes, whatever the counts allow.

use std::{path::Path, time::Duration};

use millrace_testkit::{http_sink::Reply, wait::until};

use crate::{
    broker::{Kind, ORDERS},
    faults::Scene,
    load::Load,
};

const PATIENCE: Duration = Duration::from_secs(240);

/// Bytes that may be in flight: the default of `inFlightBytes`.
const BUDGET: u64 = 16 * 1024 * 1024;

/// Padding of a message. With the rest of it, it is as large as brokers take one by default: 1 MiB, or, by Kafka's
/// publishers, 1,000,000 bytes.
const PADDING: usize = 999_000;

/// So many messages of a megabyte, each of which takes the receiver a while.
///
/// # Panics
/// When a bound is not kept.
pub async fn memory(program: &Path, kind: Kind, messages: u32) -> String {
    let scene = Scene::open(program, kind).await;
    // Slow enough that the broker always has more.
    scene.hook.answer(|_| Reply { delay: Duration::from_millis(400), ..Reply::status(204) });
    let runtime = scene.runtime("maxAttempts: 5", "workers: 8\nidempotency: {mode: None}");
    until("it takes events", PATIENCE, async || runtime.is_ready()).await;
    // A few small ones first, so that everything has been used once.
    scene.publish(Load::of(ORDERS, 50)).await;
    until("it is warm", PATIENCE, async || scene.hook.count() == 50).await;
    let base = runtime.memory().now;

    // Ids of their own, so that no stream takes them for the same once more.
    scene.publish(Load { padding: PADDING, first: 50, ..Load::of(ORDERS, 50 + messages) }).await;
    let all = usize::try_from(50 + messages).unwrap();
    until("all are handled", PATIENCE, async || scene.hook.count() >= all).await;
    let peak = runtime.memory().peak;

    let grown = peak - base;
    let mib = |bytes: u64| bytes / 1024 / 1024;
    println!("memory {kind}: base={} MiB peak={} MiB", mib(base), mib(peak));
    assert!(grown * 10 <= BUDGET * 13, "{} MiB more than at rest, with a budget of {} MiB", mib(grown), mib(BUDGET));
    format!(
        "faults: case=memory broker={kind} messages={messages} message_bytes=1000000 budget_mib={} at_rest_mib={} \
         peak_mib={} over_rest_percent_of_budget={}",
        mib(BUDGET),
        mib(base),
        mib(peak),
        grown * 100 / BUDGET
    )
}
