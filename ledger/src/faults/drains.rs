//! Drains under load. Without claims an event that is delivered again has its effect again, so a drain that is not clean
//! shows.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use millrace_testkit::{runtime::Runtime, signal::Signal, wait::until};

use crate::{
    broker::{Kind, ORDERS},
    faults::Scene,
    load::Load,
};

/// Processes that are drained at a time, next to each other.
const TOGETHER: u32 = 4;

/// Events a second while drains go on, and how many of them before a look whether they do.
const RATE: u32 = 100;
const PORTION: u32 = 200;

const PATIENCE: Duration = Duration::from_secs(60);

/// The time for what has gathered meanwhile: who is drained as soon as it works gets little done.
const BACKLOG: Duration = Duration::from_secs(60);

/// Drains so many processes while events come, one after the other on each of four tracks.
///
/// # Panics
/// When a drain is not clean.
pub async fn drains(program: &Path, kind: Kind, count: u32) -> String {
    let scene = Scene::open(program, kind).await;
    // One that stays, as there is one in a rolling update: else each event would go from one that drains to the next.
    let staying = start(&scene);
    let (started, drained) = (Instant::now(), AtomicBool::new(false));
    let load = async {
        let mut events = 0;
        while !drained.load(Ordering::Relaxed) {
            scene.publish(Load { first: events, rate: RATE, ..Load::of(ORDERS, events + PORTION) }).await;
            events += PORTION;
        }
        events
    };
    let tracks = async {
        let track = || drain_one_after_the_other(&scene, count / TOGETHER);
        let (a, b, c, d) = tokio::join!(track(), track(), track(), track());
        drained.store(true, Ordering::Relaxed);
        a + b + c + d
    };
    let (events, clean) = tokio::join!(load, tracks);

    let all = usize::try_from(events).unwrap();
    let deadline = Instant::now() + BACKLOG;
    while scene.hook.count() < all || staying.in_flight() > 0 {
        let handled = scene.hook.count();
        assert!(
            Instant::now() < deadline,
            "{handled} of {all} are handled; the one that stays says {:?}",
            staying.status()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((scene.hook.count(), scene.doubled()), (all, 0), "delivered again after a clean drain");
    format!(
        "faults: case=drains broker={kind} drains={count} clean={clean} events={events} lost=0 delivered_again=0 seconds={}",
        started.elapsed().as_secs()
    )
}

fn start(scene: &Scene<'_>) -> Runtime {
    // Without claims JetStream counts deliveries, and those that are handed back unstarted too.
    scene.runtime("maxAttempts: 100", "workers: 8\nidempotency: {mode: None}")
}

/// How many drains were clean.
async fn drain_one_after_the_other(scene: &Scene<'_>, count: u32) -> u32 {
    let mut clean = 0;
    for _ in 0..count {
        let mut runtime = start(scene);
        until("it is at work", PATIENCE, async || runtime.total("handled") > 0).await;
        runtime.signal(Signal::TERM);
        until("the drain ends", PATIENCE, async || runtime.process.try_wait().unwrap().is_some()).await;
        assert_eq!(runtime.wait().code(), Some(0), "{}", runtime.log());
        clean += 1;
    }
    clean
}
