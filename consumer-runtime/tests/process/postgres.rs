//! Handlers whose effect is one transaction with its record: whatever dies, nothing is lost and nothing happens twice.

use std::{fs, path::Path, time::Duration};

use async_nats::jetstream;
use millrace_testkit::{
    nats_server::NatsServer,
    postgres_server::PostgresServer,
    sample,
    signal::Signal,
    wait::{eventually, until},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::support::{PATIENCE, Runtime, publish};

/// The time that a claim lives: the attempt timeout and a margin.
const LEASE: Duration = Duration::from_secs(11);

const STOCK: i64 = 1_000_000;

/// A shop with a broker and a database.
struct Shop {
    nats: NatsServer,
    streams: jetstream::Context,
    database: PostgresServer,
    sql: Client,
    secrets: TempDir,
}

impl Shop {
    async fn open() -> Self {
        let nats = NatsServer::jetstream().await;
        let streams = nats.make_streams().await;
        let database = PostgresServer::start().await;
        let secrets = TempDir::new().unwrap();
        fs::create_dir(secrets.path().join("store")).unwrap();
        fs::write(secrets.path().join("store/url"), database.url()).unwrap();
        let (sql, connection) = tokio_postgres::connect(&database.url(), NoTls).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        tokio::spawn(connection);
        Self { nats, streams, database, sql, secrets }
    }

    fn runtime(&self, name: &str, handler: &str) -> Runtime {
        let more = "idempotency: {mode: Transactional, store: {postgres: {connectionSecretRef: {name: shop-db}}}}
delivery: {deadLetter: {subject: dlq.x}, attemptTimeoutSeconds: 1, maxAttempts: 100, backoff: {initialMilliseconds: 10}}";
        Runtime::with(&self.nats, name, 2, handler, more, self.secrets.path())
    }

    fn inventory(&self) -> Runtime {
        self.runtime("inventory", "{inventory: {}}")
    }

    /// A runtime with `inventory` that is ready, and stock for the orders.
    async fn stocked(&self) -> Runtime {
        let runtime = self.inventory();
        eventually("it is ready", PATIENCE, || runtime.is_ready()).await;
        let stock = format!("INSERT INTO millrace.stock VALUES ('p1', {STOCK})");
        self.sql.batch_execute(&stock).await.unwrap();
        runtime
    }

    async fn number(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn reserved_events(&self) -> i64 {
        self.number("SELECT count(DISTINCT event_id) FROM millrace.reservations").await
    }

    /// Each of these orders asks for two pieces of one product.
    async fn assert_reserved_once(&self, orders: i64) {
        assert_eq!(self.reserved_events().await, orders, "lost");
        assert_eq!(self.number("SELECT count(*) FROM millrace.reservations").await, orders, "doubled");
        let stock = self.sql.query_one("SELECT available, reserved FROM millrace.stock", &[]).await.unwrap();
        assert_eq!((stock.get::<_, i64>(0), stock.get::<_, i64>(1)), (STOCK - 2 * orders, 2 * orders));
        assert_eq!(self.streams.get_stream("DLQ").await.unwrap().cached_info().state.messages, 0, "dead letters");
    }
}

/// Kills the runtime again and again while it is at work, each time at another moment, and starts the next.
async fn kill_again_and_again(mut runtime: Runtime, kills: u64, start: impl Fn() -> Runtime) -> Runtime {
    for kill in 0..kills {
        eventually("it is at work", PATIENCE, || runtime.total("deliveries") > 0).await;
        tokio::time::sleep(Duration::from_millis(kill * 377 % 500)).await;
        runtime.process.kill().unwrap();
        runtime.wait();
        runtime = start();
    }
    runtime
}

#[tokio::test]
async fn a_runtime_that_is_killed_at_random_under_load_reserves_every_order_once() {
    const ORDERS: u32 = 3000;
    let shop = Shop::open().await;
    let first = shop.stocked().await;
    let load = publish(&shop.streams, 0..ORDERS);
    let ((), last) = tokio::join!(load, kill_again_and_again(first, 8, || shop.inventory()));

    until("all are reserved", Duration::from_secs(90), async || shop.reserved_events().await == i64::from(ORDERS))
        .await;

    shop.assert_reserved_once(i64::from(ORDERS)).await;
    let met = shop.number("SELECT count(*) FROM millrace.claims WHERE uncertain > 0").await;
    assert!(met > 0, "no kill has met an event at work");
    let status: Value = last.status().unwrap();
    assert_eq!(status["deliveryGuarantee"], "EffectivelyOnce");
    assert_eq!(last.total("possibleDuplicates"), 0, "nothing is left open, so nothing is suspected");
}

#[tokio::test]
async fn a_runtime_that_was_stopped_for_longer_than_its_claims_live_is_fenced_and_doubles_nothing() {
    let shop = Shop::open().await;
    let zombie = shop.stocked().await;
    // Its transactions wait for the table, with their claims taken.
    let lock = tokio_postgres::connect(&shop.database.url(), NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    tokio::spawn(lock.1);
    lock.0.batch_execute("BEGIN; LOCK TABLE millrace.stock").await.unwrap();
    publish(&shop.streams, 0..10).await;
    until("they wait", PATIENCE, async || {
        shop.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").await > 0
    })
    .await;
    zombie.signal(Signal::STOP);
    lock.0.batch_execute("ROLLBACK").await.unwrap();
    tokio::time::sleep(LEASE).await;
    let next = shop.inventory();
    until("the next has done the work", PATIENCE, async || shop.reserved_events().await == 10).await;

    zombie.signal(Signal::CONT);

    eventually("it is fenced", PATIENCE, || zombie.total("fenced") >= 1).await;
    publish(&shop.streams, 10..200).await;
    until("both go on", PATIENCE, async || shop.reserved_events().await == 200).await;
    shop.assert_reserved_once(200).await;
    drop(next);
}

/// An order whose amount is its own.
fn order(number: u32) -> String {
    let mut body: Value = serde_json::from_slice(&sample::order(&number.to_string())).unwrap();
    body["customer_id"] = json!(format!("customer-{}", number % 100));
    let text = body.to_string();
    // Written as text: the exact amount, and not the nearest floating-point number.
    text.replace("\"total_amount\":25.0", &format!("\"total_amount\":{number}.{:02}", number % 100))
}

#[tokio::test]
async fn the_sums_in_the_database_are_exact_though_runtimes_are_killed_and_events_come_twice() {
    const ORDERS: u32 = 1500;
    let shop = Shop::open().await;
    let start = || shop.runtime("sums", "{analytics: {store: Postgres}}");
    let first = start();
    let load = async {
        for number in (0..ORDERS).flat_map(|number| [number, number]) {
            shop.streams.publish("orders.placed", order(number).into()).await.unwrap().await.unwrap();
        }
    };
    let ((), last) = tokio::join!(load, kill_again_and_again(first, 5, start));

    let analytics = |field: &str| last.status().map(|status| status["analytics"][field].clone()).unwrap_or_default();
    eventually("all are added up", Duration::from_secs(90), || analytics("orders") == json!(ORDERS)).await;

    let cents: u64 = (0..u64::from(ORDERS)).map(|number| number * 100 + number % 100).sum();
    assert_eq!(analytics("totalRevenue"), format!("{}.{:02}", cents / 100, cents % 100));
    assert_eq!((analytics("customers"), analytics("ordersPerCustomer")), (json!(100), json!("15.00")));
    assert_eq!(analytics("quantityByProduct"), json!({"p1": 2 * ORDERS}));
    assert_eq!(analytics("processed"), json!(ORDERS));
}

#[tokio::test]
async fn a_database_that_is_away_stops_the_intake_and_costs_no_event() {
    let mut shop = Shop::open().await;
    let runtime = shop.stocked().await;
    publish(&shop.streams, 0..100).await;
    until("they are reserved", PATIENCE, async || shop.reserved_events().await == 100).await;

    shop.database.kill();
    publish(&shop.streams, 100..200).await;
    eventually("it is told", PATIENCE, || {
        runtime.status().is_some_and(|status| {
            status["problems"].as_array().unwrap().iter().any(|problem| problem["part"] == "Store")
        })
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    shop.database.restart().await;
    shop.sql = {
        let (sql, connection) = tokio_postgres::connect(&shop.database.url(), NoTls).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        tokio::spawn(connection);
        sql
    };

    until("the rest is reserved", PATIENCE, async || shop.reserved_events().await == 200).await;
    shop.assert_reserved_once(200).await;
}

#[tokio::test]
async fn a_secret_that_is_missing_is_told_for_store_and_handler() {
    let nats = NatsServer::jetstream().await;
    nats.make_streams().await;
    let more = "idempotency: {mode: Transactional, store: {postgres: {connectionSecretRef: {name: shop-db}}}}
delivery: {deadLetter: {subject: dlq.x}}";
    let runtime = Runtime::with(&nats, "inventory", 30, "{inventory: {}}", more, Path::new("/nonexistent"));

    eventually("it is told", PATIENCE, || {
        let status = runtime.status().unwrap_or_default();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        ["Store", "Handler"]
            .iter()
            .all(|part| problems.iter().any(|problem| problem["part"] == *part && problem["reason"] == "SecretMissing"))
    })
    .await;
}
