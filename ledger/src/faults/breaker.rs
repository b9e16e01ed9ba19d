//! A receiver that fails for every event, with the circuit breaker on: nothing is given up, no attempts are burnt, and
//! waiting costs next to nothing.

use std::{path::Path, time::Duration};

use millrace_testkit::{http_sink::Reply, wait::until};

use crate::{
    broker::{Kind, ORDERS},
    faults::Scene,
    load::Load,
};

const PATIENCE: Duration = Duration::from_secs(120);

const WORKERS: u64 = 8;

/// Failures in a row that open the circuit.
const FAILURES: u64 = 10;

/// Attempts of an event: few, so that burnt ones would show as dead letters.
const ATTEMPTS: u64 = 3;

/// Lets the receiver fail for `time`, with so many events waiting.
///
/// # Panics
/// When a bound is not kept.
pub async fn breaker(program: &Path, kind: Kind, events: u32, time: Duration) -> String {
    let scene = Scene::open(program, kind).await;
    scene.hook.answer(|_| Reply::status(503));
    let delivery = format!(
        "maxAttempts: {ATTEMPTS}, backoff: {{initialMilliseconds: 100, maxSeconds: 1}}, \
         circuitBreaker: {{consecutiveFailures: {FAILURES}, openSeconds: 1}}"
    );
    let rest =
        format!("workers: {WORKERS}\nidempotency: {{store: {{postgres: {{connectionSecretRef: {{name: shop-db}}}}}}}}");
    let runtime = scene.runtime(&delivery, &rest);
    scene.publish(Load::of(ORDERS, events)).await;
    until("the circuit opens", PATIENCE, async || runtime.problem("Circuit").is_some()).await;

    let used = runtime.processor_time();
    tokio::time::sleep(time).await;
    let used = runtime.processor_time().saturating_sub(used);
    let (probes, spent) = (runtime.total("retries"), scene.shop.attempts().await);
    assert!(probes >= time.as_secs() / 4, "{probes} attempts: nothing probes, and the test shows nothing");
    // Those that opened it, and those that were at work by then.
    assert!(spent <= FAILURES + WORKERS, "{spent} attempts are spent");
    assert_eq!(runtime.total("deadLetters"), 0);
    let permille = used.as_millis() * 1000 / time.as_millis();
    assert!(permille < 200, "{permille} thousandths of a core");

    scene.hook.answer(|_| Reply::status(204));
    let all = usize::try_from(events).unwrap();
    until("the backlog is handled", PATIENCE, async || scene.hook.count() >= all && runtime.in_flight() == 0).await;
    assert_eq!((scene.hook.count(), scene.doubled(), runtime.total("deadLetters")), (all, 0, 0));
    format!(
        "faults: case=breaker broker={kind} seconds={} probes={probes} attempts_spent={spent} dead_letters=0 \
         core_percent={}.{} handled={events} lost=0 doubled=0",
        time.as_secs(),
        permille / 10,
        permille % 10
    )
}
