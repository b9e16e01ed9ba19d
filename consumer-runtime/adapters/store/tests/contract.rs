//! Every store passes the contract suite; the shared one on a real server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{sync::Arc, time::Duration};

use millrace_core::{
    claim::Wish,
    health::TroubleReason,
    key::{ConsumerName, Fingerprint, Key},
    outcome::Effect,
    ports::{Claim, IdempotencyStore, StoreError},
    time::Clock,
};
use millrace_store::{BucketOptions, JetStreamKvStore, MemoryStore};
use millrace_testkit::{
    clock::{ManualClock, WallClock},
    contract,
    nats_server::NatsServer,
    sample,
};

const RETENTION: Duration = Duration::from_secs(3600);

fn options() -> BucketOptions {
    BucketOptions {
        bucket: "claims".to_owned(),
        replicas: 1,
        retention: RETENTION,
        request_timeout: Duration::from_secs(1),
    }
}

async fn open(server: &NatsServer, clock: Arc<dyn Clock>) -> JetStreamKvStore {
    let client = async_nats::ConnectOptions::new()
        .request_timeout(Some(Duration::from_secs(1)))
        .reconnect_delay_callback(|_| Duration::from_millis(20))
        .connect(server.url())
        .await
        .unwrap();
    JetStreamKvStore::open(client, &options(), clock).await.unwrap()
}

fn key(id: &str) -> Key {
    Key::new(&ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() }, &sample::event(id))
}

const WISH: Wish = Wish { fingerprint: Fingerprint::literal(b"a"), lease: Duration::from_secs(30) };

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>, 1000, RETENTION);

    contract::store::run(&store, |time| {
        clock.advance(time);
        std::future::ready(())
    })
    .await;
}

#[tokio::test]
async fn the_jetstream_store_keeps_the_contract() {
    let server = NatsServer::jetstream().await;
    let store = open(&server, WallClock::start()).await;

    // The lease is ended by the clock of the server, which only time moves.
    contract::store::run(&store, tokio::time::sleep).await;
}

#[tokio::test]
async fn a_full_memory_store_forgets_ended_events_and_never_a_claim() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::new(clock, 2, RETENTION);
    let Claim::Claimed(first) = store.claim(&key("1"), &WISH).await.unwrap() else { panic!() };
    store.claim(&key("2"), &WISH).await.unwrap();

    let refused = store.claim(&key("3"), &WISH).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");

    store.end(&key("1"), &first, &first.ended(millrace_core::claim::State::Done)).await.unwrap();
    assert!(matches!(store.claim(&key("3"), &WISH).await.unwrap(), Claim::Claimed(_)));
    assert!(matches!(store.claim(&key("2"), &WISH).await.unwrap(), Claim::Busy(_)));
}

#[tokio::test]
async fn a_full_memory_store_forgets_released_events_which_another_process_may_have_ended() {
    let store = MemoryStore::new(Arc::new(ManualClock::default()), 2, RETENTION);
    let Claim::Claimed(first) = store.claim(&key("1"), &WISH).await.unwrap() else { panic!() };
    store.claim(&key("2"), &WISH).await.unwrap();
    let released = first.record.released(Effect::Possible, jiff::Timestamp::UNIX_EPOCH);
    store.end(&key("1"), &first, &released).await.unwrap();

    assert!(matches!(store.claim(&key("3"), &WISH).await.unwrap(), Claim::Claimed(_)));
    assert!(matches!(store.claim(&key("2"), &WISH).await.unwrap(), Claim::Busy(_)));
}

#[tokio::test]
async fn an_event_whose_entry_somebody_deletes_is_handled_again() {
    let server = NatsServer::jetstream().await;
    let store = open(&server, WallClock::start()).await;
    let Claim::Claimed(claim) = store.claim(&key("1"), &WISH).await.unwrap() else { panic!() };
    store.end(&key("1"), &claim, &claim.ended(millrace_core::claim::State::Done)).await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let bucket = async_nats::jetstream::new(client).get_key_value("claims").await.unwrap();

    bucket.delete(key("1").to_string()).await.unwrap();

    assert!(matches!(store.claim(&key("1"), &WISH).await.unwrap(), Claim::Claimed(_)));
}

#[tokio::test]
async fn claims_outlive_a_crash_of_the_server_and_an_outage_is_an_error() {
    let mut server = NatsServer::jetstream().await;
    let store = open(&server, WallClock::start()).await;
    let Claim::Claimed(claim) = store.claim(&key("1"), &WISH).await.unwrap() else { panic!() };

    server.kill();
    let refused = store.claim(&key("2"), &WISH).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    server.restart().await;

    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while store.ping().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the store does not come back");
    }
    assert!(matches!(store.claim(&key("1"), &WISH).await.unwrap(), Claim::Busy(_)));
    store.end(&key("1"), &claim, &claim.ended(millrace_core::claim::State::Done)).await.unwrap();
    assert_eq!(store.claim(&key("1"), &WISH).await.unwrap(), Claim::Settled);
    // The client has sent what was asked for meanwhile: that claim is our own, and no attempt has started on it.
    let Claim::Claimed(unheard) = store.claim(&key("2"), &WISH).await.unwrap() else { panic!() };
    assert_eq!(unheard.record.attempts, 1);
}

#[tokio::test]
async fn a_bucket_that_forgets_too_early_is_refused_with_what_to_do() {
    let server = NatsServer::jetstream().await;
    open(&server, WallClock::start()).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let longer = BucketOptions { retention: RETENTION * 2, ..options() };

    let Err(trouble) = JetStreamKvStore::open(client, &longer, WallClock::start()).await else { panic!("accepted") };

    assert_eq!(trouble.reason, TroubleReason::BucketConflict);
    assert!(trouble.message.contains("3600 s") && trouble.message.contains("7200"), "{}", trouble.message);
}
