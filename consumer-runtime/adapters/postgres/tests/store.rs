//! Protects the store of claims on a real PostgreSQL: the contract, its rules against those of the core, outages, and
//! what is said of a database that does not fit.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, future::join_all};
use millrace_core::{
    claim::{Record, State, Verdict, Wish, judge},
    health::TroubleReason,
    key::{Fingerprint, Key},
    outcome::Effect,
    ports::{Claim, Claimed, IdempotencyStore as _, StoreError},
};
use millrace_postgres::PostgresStore;
use millrace_testkit::{contract, postgres_server::PostgresServer, wait::until};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

use crate::support::{Sql, database, database_with, key, secret};

/// The time that something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

const RETENTION: Duration = Duration::from_secs(3600);
const WISH: Wish = Wish { fingerprint: Fingerprint::literal(b"a"), lease: Duration::from_secs(30) };

async fn open(server: &PostgresServer) -> PostgresStore {
    PostgresStore::open(database(server), RETENTION).await.unwrap()
}

async fn claimed(store: &PostgresStore, id: &str) -> Claimed {
    match store.claim(&key(id), &WISH).await.unwrap() {
        Claim::Claimed(claimed) => claimed,
        other => panic!("expected a claim, got {other:?}"),
    }
}

#[tokio::test]
async fn the_postgres_store_keeps_the_contract() {
    let server = PostgresServer::start().await;
    let store = open(&server).await;

    // The lease is ended by the clock of the server, which only time moves.
    contract::store::run(&store, tokio::time::sleep).await;
}

/// A record as it stands in the table, if there is one, and a wish to claim it.
#[derive(Debug)]
struct Case {
    state: Option<&'static str>,
    /// Milliseconds from now. Some seconds away on either side, so that both sides judge the same moment.
    lease_end: i64,
    attempts: u32,
    uncertain: u32,
    first_failure: Option<i64>,
    fingerprint: Fingerprint,
    lease: Duration,
}

fn cases() -> impl Strategy<Value = Case> {
    let states = prop_oneof![Just("claimed"), Just("released"), Just("done"), Just("dead")];
    (
        prop::option::weighted(0.9, states),
        prop_oneof![-100_000_i64..-10_000, 10_000_i64..100_000],
        (0_u32..1000, 0_u32..1000),
        prop::option::of(0_i64..4_000_000_000),
        prop_oneof![Just(Fingerprint::literal(b"a")), Just(Fingerprint::literal(b"b"))],
        60_000_u64..3_600_000,
    )
        .prop_map(|(state, lease_end, (attempts, uncertain), first_failure, fingerprint, lease)| Case {
            state,
            lease_end,
            attempts,
            uncertain,
            first_failure,
            fingerprint,
            lease: Duration::from_millis(lease),
        })
}

/// Puts the record of a case into the table, as SQL has it, and says what it is.
async fn put(sql: &Sql, key: &Key, case: &Case) -> Option<Record> {
    let name = case.state?;
    let first_failure = case.first_failure.map(|second| jiff::Timestamp::from_second(second).unwrap());
    let (attempts, uncertain) = (i64::from(case.attempts), i64::from(case.uncertain));
    let row = sql
        .0
        .query_one(
            "INSERT INTO millrace.claims VALUES (decode($1, 'hex'), $2, nextval('millrace.claim_token'), 0, \
               CASE WHEN $2 = 'claimed' THEN clock_timestamp() + $3::bigint * interval '1 millisecond' END, \
               $4, $5, $6, $7, 'infinity') RETURNING lease_until",
            &[
                &key.to_string(),
                &name,
                &case.lease_end,
                &attempts,
                &uncertain,
                &first_failure,
                &case.fingerprint.as_str(),
            ],
        )
        .await
        .unwrap();
    let state = match name {
        "claimed" => State::Claimed { until: row.get(0) },
        "released" => State::Released,
        "done" => State::Done,
        _ => State::Dead,
    };
    let Case { attempts, uncertain, fingerprint, .. } = case;
    Some(Record { state, attempts: *attempts, uncertain: *uncertain, first_failure, fingerprint: *fingerprint })
}

/// Claims the record of a case, and asks the core what that should come to.
async fn compare(store: &PostgresStore, sql: &Sql, key: &Key, case: &Case) {
    let wish = Wish { fingerprint: Fingerprint::literal(b"a"), lease: case.lease };
    let existing = put(sql, key, case).await;
    let now = async || sql.0.query_one("SELECT clock_timestamp()", &[]).await.unwrap().get::<_, jiff::Timestamp>(0);
    let before = now().await;
    let claim = store.claim(key, &wish).await.unwrap();
    let after = now().await;
    match (judge(existing.as_ref(), &wish, before), claim) {
        (Verdict::Claim(expected), Claim::Claimed(claimed)) => {
            let State::Claimed { until } = claimed.record.state else { panic!("{claimed:?}") };
            assert!(until >= before + wish.lease && until <= after + wish.lease, "{case:?}");
            assert_eq!(claimed.record.ended(State::Done), expected.ended(State::Done), "{case:?}");
            // What the table holds is what the holder was told: nobody else can claim, and it can end it.
            assert!(matches!(store.claim(key, &wish).await.unwrap(), Claim::Busy(_)), "{case:?}");
            let released = claimed.record.released(Effect::Possible, before);
            store.end(key, &claimed, &released).await.unwrap();
            let Claim::Claimed(next) = store.claim(key, &wish).await.unwrap() else { panic!("{case:?}") };
            assert!(next.token > claimed.token);
            let expected = Record { attempts: released.attempts + 1, ..released };
            assert_eq!(next.record.ended(State::Released), expected, "{case:?}");
        }
        (Verdict::Busy(longest), Claim::Busy(remaining)) => assert!(remaining <= longest, "{case:?}"),
        (Verdict::Settled, Claim::Settled) | (Verdict::Conflict, Claim::Conflict) => {}
        (expected, claim) => panic!("{case:?} is {expected:?} and became {claim:?}"),
    }
}

/// The rules are the core's. What this protects is that a record survives the way through SQL and back, and that the
/// times which decide are the server's.
#[tokio::test]
async fn what_a_claim_comes_to_is_what_the_core_says_for_thousands_of_records() {
    let server = PostgresServer::start().await;
    let store = open(&server).await;
    let sql = Sql::connect(&server).await;
    let mut runner = TestRunner::new(Config::default());
    let cases = (0..3_000).map(|number| (number, cases().new_tree(&mut runner).unwrap().current()));

    futures::stream::iter(cases)
        .for_each_concurrent(16, async |(number, case)| {
            compare(&store, &sql, &key(&format!("case-{number}")), &case).await;
        })
        .await;
}

#[tokio::test]
async fn a_done_event_is_never_released_not_even_by_its_own_holder() {
    let server = PostgresServer::start().await;
    let store = open(&server).await;
    let claim = claimed(&store, "1").await;
    store.end(&key("1"), &claim, &claim.ended(State::Done)).await.unwrap();

    let refused = store.end(&key("1"), &claim, &claim.record.released(Effect::None, jiff::Timestamp::now())).await;

    assert!(matches!(refused, Err(StoreError::Fenced)), "{refused:?}");
    assert_eq!(store.claim(&key("1"), &WISH).await.unwrap(), Claim::Settled);
}

/// Many requests are one statement: each has the answer to its own.
#[tokio::test]
async fn requests_that_go_together_are_answered_one_by_one() {
    let server = PostgresServer::start().await;
    let store = open(&server).await;
    let ids: Vec<String> = (0..600).map(|number| number.to_string()).collect();

    // Each is asked for by two at once.
    let asked = ids.iter().flat_map(|id| [id, id]);
    let store = &store;
    let claims = join_all(asked.map(async move |id| (id, store.claim(&key(id), &WISH).await.unwrap()))).await;
    let held: Vec<(&String, Claimed)> = claims
        .into_iter()
        .filter_map(|(id, claim)| match claim {
            Claim::Claimed(claimed) => Some((id, claimed)),
            Claim::Busy(_) => None,
            Claim::Settled | Claim::Conflict => panic!("{id}: {claim:?}"),
        })
        .collect();
    let holders: BTreeSet<&String> = held.iter().map(|(id, _)| *id).collect();
    assert_eq!((held.len(), holders.len()), (600, 600));

    let end = async |(id, claim): &(&String, Claimed)| store.end(&key(id), claim, &claim.ended(State::Done)).await;
    join_all(held.iter().map(end)).await.into_iter().for_each(Result::unwrap);
    let again = join_all(ids.iter().map(|id| async { store.claim(&key(id), &WISH).await.unwrap() })).await;
    assert!(again.iter().all(|claim| *claim == Claim::Settled), "{again:?}");
}

#[tokio::test]
async fn who_was_taken_over_is_refused_though_he_ends_together_with_who_took_over() {
    let server = PostgresServer::start().await;
    let store = open(&server).await;
    let others = [claimed(&store, "a").await, claimed(&store, "b").await];
    let brief = Wish { lease: Duration::ZERO, ..WISH };
    let Claim::Claimed(old) = store.claim(&key("1"), &brief).await.unwrap() else { panic!("nobody has it") };
    let new = claimed(&store, "1").await;

    // The first two are on their way alone, the others wait meanwhile and go together.
    let end = async |id: &str, claim: &Claimed| store.end(&key(id), claim, &claim.ended(State::Done)).await;
    let [first, second] = &others;
    let ended = tokio::join!(biased; end("a", first), end("b", second), end("1", &old), end("1", &new));

    assert!(matches!(ended, (Ok(()), Ok(()), Err(StoreError::Fenced), Ok(()))), "{ended:?}");
}

#[tokio::test]
async fn claims_outlive_a_crash_of_the_server_and_an_outage_is_an_error_in_time() {
    let mut server = PostgresServer::start().await;
    let store =
        PostgresStore::open(database_with(secret(&[("url", &server.url())]), 4, Duration::from_millis(500)), RETENTION)
            .await
            .unwrap();
    let claim = claimed(&store, "1").await;
    let unavailable_in_time = async |id: &str| {
        let asked_at = tokio::time::Instant::now();
        let refused = store.claim(&key(id), &WISH).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        assert!(asked_at.elapsed() < Duration::from_secs(2), "{:?}", asked_at.elapsed());
    };

    server.kill();
    let down_since = tokio::time::Instant::now();
    while down_since.elapsed() < Duration::from_secs(3) {
        unavailable_in_time("2").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    server.restart().await;
    until("it is used again", PATIENCE, async || store.ping().await.is_ok()).await;
    store.end(&key("1"), &claim, &claim.ended(State::Done)).await.unwrap();
    assert_eq!(store.claim(&key("1"), &WISH).await.unwrap(), Claim::Settled);
    claimed(&store, "2").await;

    // A machine that hangs: what was asked before it does is carried out when it goes on, and nobody hears the answer.
    server.pause();
    unavailable_in_time("3").await;
    server.resume();
    until("it goes on", PATIENCE, async || store.ping().await.is_ok()).await;
    let own = claimed(&store, "3").await;
    assert_eq!((own.record.attempts, own.record.uncertain), (1, 0), "no attempt had started on it");
}

#[tokio::test]
async fn a_pool_that_is_exhausted_is_an_error_in_time_and_recovers() {
    let server = PostgresServer::start().await;
    let database = database_with(secret(&[("url", &server.url())]), 1, Duration::from_millis(300));
    let store = PostgresStore::open(database.clone(), RETENTION).await.unwrap();
    let only = database.session().await.unwrap();

    let refused = store.claim(&key("1"), &WISH).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");

    drop(only);
    claimed(&store, "1").await;
}

#[tokio::test]
async fn old_events_are_forgotten_in_batches_and_live_claims_never() {
    let server = PostgresServer::start().await;
    let store = open(&server).await;
    let sql = Sql::connect(&server).await;
    sql.run(
        "INSERT INTO millrace.claims SELECT decode(md5(i::text), 'hex'), 'done', i, 0, NULL, 1, 0, NULL, 'a', \
         now() - interval '1 second' FROM generate_series(1, 2500) AS i",
    )
    .await;
    let alive = claimed(&store, "alive").await;
    // A lease that is longer than the retention keeps its row.
    let brief = PostgresStore::open(database(&server), Duration::ZERO).await.unwrap();
    claimed(&brief, "at work").await;

    assert_eq!(store.forget().await.unwrap(), 2500);

    assert_eq!(sql.number("SELECT count(*) FROM millrace.claims").await, 2);
    store.end(&key("alive"), &alive, &alive.ended(State::Done)).await.unwrap();
    let remembered =
        "SELECT count(*) FROM millrace.claims WHERE state = 'done' AND expires_at > now() + interval '3590 seconds'";
    assert_eq!(sql.number(remembered).await, 1);
}

#[tokio::test]
async fn a_rotated_secret_is_used_from_the_next_connection_on() {
    let server = PostgresServer::start().await;
    let secret = secret(&[("url", &server.url())]);
    let store = PostgresStore::open(database_with(secret.clone(), 4, Duration::from_secs(2)), RETENTION).await.unwrap();
    let sql = Sql::connect(&server).await;
    sql.run("ALTER ROLE millrace PASSWORD 'rotated'").await;
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'test'";
    claimed(&store, "1").await;

    sql.number(cut).await;
    until("the old password is refused", PATIENCE, async || {
        store
            .ping()
            .await
            .is_err_and(|error| error.to_string().contains("refuses the credentials of secret \"shop-db\""))
    })
    .await;
    support::put(&secret.directory, &[("url", &server.url().replace("hunter2", "rotated"))]);

    claimed(&store, "2").await;
}

#[tokio::test]
async fn a_commit_waits_for_the_disk_whatever_the_role_says() {
    let server = PostgresServer::start_with(None, &["synchronous_commit=off"]).await;
    let sql = Sql::connect(&server).await;
    sql.run("ALTER ROLE millrace SET synchronous_commit = off; ALTER ROLE millrace SET default_transaction_isolation = 'serializable'").await;

    let session = database(&server).session().await.unwrap();

    for (setting, expected) in [("synchronous_commit", "on"), ("default_transaction_isolation", "read committed")] {
        let value: String = session.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0);
        assert_eq!(value, expected);
    }
}

#[tokio::test]
async fn a_role_needs_no_more_than_it_uses_and_is_told_what_it_lacks() {
    let server = PostgresServer::start().await;
    let sql = Sql::connect(&server).await;
    sql.run("CREATE ROLE guest LOGIN PASSWORD 'guest'").await;
    let url = server.url().replace("millrace:hunter2", "guest:guest");
    let open = async || {
        PostgresStore::open(database_with(secret(&[("url", &url)]), 2, Duration::from_secs(2)), RETENTION).await
    };

    let trouble = open().await.err().unwrap();
    assert_eq!(trouble.reason, TroubleReason::Unauthorized);
    assert!(trouble.message.contains("CREATE on the database"), "{trouble}");

    // Somebody else has made the tables.
    PostgresStore::open(database(&server), RETENTION).await.unwrap();
    sql.run("GRANT USAGE ON SCHEMA millrace TO guest; GRANT SELECT ON millrace.components TO guest").await;
    let trouble = open().await.err().unwrap();
    assert_eq!(trouble.reason, TroubleReason::Unauthorized);
    assert!(trouble.message.contains("DELETE on millrace.claims"), "{trouble}");
    assert!(trouble.message.contains("USAGE on millrace.claim_token"), "{trouble}");
    sql.run(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON millrace.claims TO guest; GRANT USAGE ON SEQUENCE millrace.claim_token TO guest",
    )
    .await;
    claimed(&open().await.unwrap(), "1").await;

    // Only the schema is there, and the role may fill it.
    sql.run("DROP SCHEMA millrace CASCADE; CREATE SCHEMA millrace; GRANT USAGE, CREATE ON SCHEMA millrace TO guest")
        .await;
    claimed(&open().await.unwrap(), "1").await;

    sql.run("UPDATE millrace.components SET version = 99").await;
    let trouble = open().await.err().unwrap();
    assert_eq!(trouble.reason, TroubleReason::SchemaConflict);
}

#[tokio::test]
async fn many_processes_that_start_at_once_make_the_tables_once() {
    let server = PostgresServer::start().await;
    let openings = (0..8).map(|_| PostgresStore::open(database(&server), RETENTION));

    for opened in futures::future::join_all(openings).await {
        opened.unwrap();
    }
}
