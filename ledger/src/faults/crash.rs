//! Kafka keeps one position for each partition. A process that dies with one slow event and many finished behind it must
//! not have all of them delivered again.

use std::{path::Path, time::Duration};

use millrace_testkit::{http_sink::Reply, wait::until};

use crate::{
    broker::{Broker, Kind, ORDERS, PARTITIONS},
    faults::Scene,
    load::Load,
};

const PATIENCE: Duration = Duration::from_secs(300);

/// Deliveries in flight at most: the default of `inFlightMessages`.
const WINDOW: usize = 4_000;

/// Settlements after which a commit is due before its time.
const COMMIT_AFTER: usize = 1000;

/// Kills a process twice: in the middle of its work, and with `events` finished behind one that is slow.
///
/// # Panics
/// When a bound is not kept.
pub async fn crash(program: &Path, events: u32) -> String {
    let scene = Scene::open(program, Kind::Kafka).await;
    // The first event of the hot customer takes longer than the process lives. It has no effect before that.
    let slow = || Reply { delay: PATIENCE, ..Reply::status(500) };
    scene.hook.answer(move |event| if event == 0 { slow() } else { Reply::status(204) });
    let delivery = "attemptTimeoutSeconds: 600, maxAttempts: 5";
    let rest = "workers: 16\ndrainTimeoutSeconds: 600\nidempotency: {mode: None}";
    scene.publish(Load::of(ORDERS, events + 1)).await;
    let all = usize::try_from(events).unwrap();

    let mut first = scene.runtime(delivery, rest);
    until("half is done", PATIENCE, async || scene.hook.count() >= all / 2).await;
    first.kill();
    let mut second = scene.runtime(delivery, rest);
    let distinct = || scene.hook.count() - scene.doubled();
    until("the rest is done", PATIENCE, async || distinct() == all).await;
    let Broker::Kafka(server) = &scene.broker else { panic!("a Kafka was asked for") };
    until("all but the slow one is committed", PATIENCE, async || {
        let committed = server.committed("shop-hooks", ORDERS, PARTITIONS);
        committed.iter().any(|(_, settled_ahead)| !settled_ahead.is_empty())
            && second.metric("millrace_in_flight") == Some(1.0)
    })
    .await;
    // The last commit may be on its way.
    tokio::time::sleep(Duration::from_secs(2)).await;
    second.kill();
    // Only now: one partition may be behind with what came again when all others have done what is new.
    let at_work = scene.doubled();
    // Those at work, and those settled since the last commit.
    assert!(at_work <= WINDOW + COMMIT_AFTER, "{at_work} delivered again after a crash under load");
    scene.hook.answer(|_| Reply::status(204));
    let third = scene.runtime(delivery, rest);
    until("the slow one is done", PATIENCE, async || distinct() == all + 1 && third.in_flight() == 0).await;
    until("nothing waits", PATIENCE, async || {
        third.status().is_some_and(|status| status["lag"]["pending"] == 0 && status["lag"]["inFlight"] == 0)
    })
    .await;
    let behind = usize::try_from(third.total("deliveries")).unwrap();
    let doubled = scene.doubled() - at_work;
    assert!(behind <= 2 * 16 && doubled < behind, "{behind} delivered again, {doubled} doubled");
    format!(
        "faults: case=crash broker=kafka finished_behind_slow={events} delivered_again={behind} \
         delivered_again_under_load={at_work} lost=0"
    )
}
