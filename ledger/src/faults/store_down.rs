//! The store of claims goes away while the broker stays: no effect without a claim, no more fetching, nothing lost.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use millrace_testkit::{nats_server::NatsServer, runtime::Runtime, wait::until};

use crate::{
    broker::{Broker, Kind, ORDERS},
    faults::Scene,
    load::{Load, publish},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Events a second, before, during and after.
const RATE: u32 = 200;

/// The time in which fetching must stop once the store is known to be away, and go on once it is back.
const STOPS: Duration = Duration::from_secs(1);
const GOES_ON: Duration = Duration::from_secs(5);

/// The time that one request to the store may take (`requestMilliseconds`), lowered so that a silent one is known soon.
const REQUEST: Duration = Duration::from_secs(1);

/// Nobody but the bucket's own server can take the bucket away: here it refuses whatever concerns the bucket, and nothing
/// else.
const ALLOWED: &str = "no_auth_user: runtime
authorization {users: [{user: runtime, password: x}]}";
const REFUSED: &str = "no_auth_user: runtime
authorization {users: [{user: runtime, password: x, permissions: {publish: {allow: [\">\"], deny: [
  \"$KV.>\", \"$JS.API.DIRECT.GET.KV_millrace-idempotency.>\",
  \"$JS.API.STREAM.INFO.KV_millrace-idempotency\", \"$JS.API.STREAM.MSG.GET.KV_millrace-idempotency\"]}}}]}";

/// A store of claims.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Store {
    /// A JetStream key-value bucket.
    JetStreamKv,
    /// PostgreSQL.
    Postgres,
}

/// Takes the store away for `time`.
///
/// # Panics
/// When a bound is not kept.
pub async fn store_down(program: &Path, store: Store, time: Duration) -> String {
    let mut scene = Scene::open(program, Kind::JetStream).await;
    let (name, claims) = match store {
        Store::JetStreamKv => ("jetStreamKV", "{jetStreamKV: {}}"),
        Store::Postgres => ("postgres", "{postgres: {connectionSecretRef: {name: shop-db}}}"),
    };
    // Who somebody is whom nobody has asked is settled at a start.
    let server = jetstream(&mut scene);
    server.configure(ALLOWED.to_owned());
    server.restart().await;
    let rest = format!("idempotency: {{store: {claims}}}\nlimits: {{requestMilliseconds: {}}}", REQUEST.as_millis());
    let runtime = scene.runtime("backoff: {initialMilliseconds: 50, maxSeconds: 2}", &rest);
    let events = RATE * (u32::try_from(time.as_secs()).unwrap() + 10);
    let (publisher, load) = (scene.broker.publisher().await, Load { rate: RATE, ..Load::of(ORDERS, events) });
    let (sent, line) = tokio::join!(publish(publisher, load), fault(&mut scene, &runtime, store, time));
    let all = sent.0.len();
    until("nothing is lost", PATIENCE, async || scene.hook.count() >= all && runtime.in_flight() == 0).await;
    let (doubled, counted) = (scene.doubled() as u64, runtime.total("possibleDuplicates"));
    assert!(doubled <= counted, "{doubled} doubled, {counted} counted");
    assert_eq!((scene.hook.count() as u64 - doubled, runtime.total("deadLetters")), (all as u64, 0), "lost");
    format!(
        "faults: case=store-down store={name} {line} effects_without_claim=0 handled={all} lost=0 doubled={doubled}"
    )
}

/// The outage, under load. What was measured of it.
async fn fault(scene: &mut Scene<'_>, runtime: &Runtime, store: Store, time: Duration) -> String {
    until("it is at work", PATIENCE, async || scene.hook.count() > 100).await;
    let down = Instant::now();
    take_away(scene, store);
    until("the store is missed", PATIENCE, async || runtime.problem("Store").is_some()).await;
    let noticed = down.elapsed();
    assert!(noticed < REQUEST + STOPS, "noticed after {noticed:?}");
    let stopped = fetching_stops(runtime).await - down;
    // What had its claim may end.
    tokio::time::sleep(REQUEST).await;
    let (effects, deliveries) = (scene.hook.count(), runtime.total("deliveries"));
    tokio::time::sleep(time.saturating_sub(down.elapsed())).await;
    assert_eq!(scene.hook.count(), effects, "effects without a claim");
    assert_eq!(runtime.total("deliveries"), deliveries, "fetching has not stopped");
    give_back(scene, store).await;
    let back = Instant::now();
    until("it goes on", GOES_ON, async || scene.hook.count() > effects).await;
    let resumed = back.elapsed();
    format!(
        "down_ms={} stopped_ms={} resumed_ms={}",
        (back - down).as_millis(),
        stopped.as_millis(),
        resumed.as_millis()
    )
}

/// When the last delivery was fetched. Nothing more may come for twice the time in which fetching must stop.
async fn fetching_stops(runtime: &Runtime) -> Instant {
    let (known, mut last, mut since) = (Instant::now(), runtime.total("deliveries"), Instant::now());
    while since.elapsed() < STOPS * 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let deliveries = runtime.total("deliveries");
        if deliveries != last {
            (last, since) = (deliveries, Instant::now());
            assert!(known.elapsed() < STOPS, "fetching goes on");
        }
    }
    since
}

fn jetstream<'a>(scene: &'a mut Scene<'_>) -> &'a mut NatsServer {
    let Broker::JetStream(server) = &mut scene.broker else { panic!("a JetStream was asked for") };
    server
}

fn take_away(scene: &mut Scene<'_>, store: Store) {
    match store {
        Store::JetStreamKv => jetstream(scene).reload(REFUSED.to_owned()),
        Store::Postgres => scene.shop.server.kill(),
    }
}

async fn give_back(scene: &mut Scene<'_>, store: Store) {
    match store {
        Store::JetStreamKv => jetstream(scene).reload(ALLOWED.to_owned()),
        Store::Postgres => scene.shop.server.restart().await,
    }
}
