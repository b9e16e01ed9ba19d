//! Protects putting dead letters back on Kafka, where none can be deleted: with `inventory`, whose rows show what was lost and
//! what happened twice.

use std::{fs, path::Path, time::Duration};

use millrace_events::Headers;
use millrace_testkit::{
    kafka_server::KafkaServer,
    postgres_server::PostgresServer,
    sample,
    wait::{eventually, until},
};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::{
    redrive::summary,
    support::{PATIENCE, Runtime},
};

const PARTITIONS: i32 = 2;

/// A shop that has nothing in stock, so that its orders become dead letters.
struct Shop {
    server: KafkaServer,
    runtime: Runtime,
    sql: Client,
    _database: PostgresServer,
    _secrets: TempDir,
}

impl Shop {
    async fn open() -> Self {
        let server = KafkaServer::start().await;
        server.create_topic("orders", PARTITIONS, &[("retention.ms", "-1")]).await;
        server.create_topic("dlq", PARTITIONS, &[]).await;
        let database = PostgresServer::start().await;
        let (sql, connection) = tokio_postgres::connect(&database.url(), NoTls).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        tokio::spawn(connection);
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("store")).unwrap();
        fs::write(folder.path().join("store/url"), database.url()).unwrap();
        let more = "handler: {inventory: {}}
workers: 4
idempotency: {mode: Transactional, store: {postgres: {connectionSecretRef: {name: shop-db}}}}";
        let runtime = start(&server, "inventory", folder.path(), more);
        eventually("it is ready", PATIENCE, || runtime.is_ready()).await;
        Self { server, runtime, sql, _database: database, _secrets: folder }
    }

    /// Publishes orders, and waits for their dead letters.
    async fn publish_refused(&self, count: u32) {
        let publisher = self.server.publisher();
        for id in 0..count {
            let id = id.to_string();
            let mut headers = Headers::new();
            headers.push("shop", format!("shop of {id}"));
            publisher.send("orders", Some(id.as_bytes()), &headers, Some(&sample::order(&id)));
        }
        publisher.flush();
        eventually("they are dead", PATIENCE, || self.runtime.total("deadLetters") == u64::from(count)).await;
    }

    async fn stock(&self) {
        self.sql.batch_execute("INSERT INTO millrace.stock VALUES ('p1', 1000000)").await.unwrap();
    }

    fn redrive(&self, arguments: &[&str], success: bool) -> String {
        summary(&self.runtime.redrive(arguments).output().unwrap(), success)
    }

    /// Letters that are not taken out.
    fn waiting(&self) -> u64 {
        let said = self.redrive(&["--dry-run", "--max-messages", "100000"], true);
        said.split(' ').find_map(|word| word.strip_prefix("matched=")).unwrap().parse().unwrap()
    }

    async fn number(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn reserved(&self) -> i64 {
        self.number("SELECT count(*) FROM millrace.reservations").await
    }

    async fn assert_reserved_once(&self, orders: u32) {
        let orders = i64::from(orders);
        let distinct = self.number("SELECT count(DISTINCT event_id) FROM millrace.reservations").await;
        assert_eq!((distinct, self.reserved().await), (orders, orders), "lost, or doubled");
        assert_eq!(self.number("SELECT reserved FROM millrace.stock").await, 2 * orders);
    }
}

/// A runtime on `orders`, with dead letters in `dlq`.
fn start(server: &KafkaServer, name: &str, secrets: &Path, more: &str) -> Runtime {
    let text = format!(
        "consumer: {{namespace: shop, name: {name}}}
broker: {{kafka: {{bootstrapServers: ['{}']}}}}
subjects: [orders]
delivery: {{attemptTimeoutSeconds: 2, deadLetter: {{subject: dlq}}}}
{more}
",
        server.bootstrap()
    );
    Runtime::of(&text, secrets, Path::new("/nonexistent"))
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_on_kafka_are_shown_handled_once_and_parked_when_they_fail_too_often() {
    let shop = Shop::open().await;
    eventually("it says that orders outlive their claims", PATIENCE, || {
        let notes = shop.runtime.status().unwrap_or_default()["notes"].clone();
        notes[0]["reason"] == "RetentionTooShort" && notes.to_string().contains("without a limit of age")
    })
    .await;
    shop.publish_refused(5).await;

    let shown = shop.runtime.redrive(&["--dry-run", "--reason", "HandlerRejected"]).output().unwrap();
    assert!(summary(&shown, true).starts_with("redrive: target=none matched=5 replayed=0"), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("\treplays=0\tid=3\tkafka://orders/"), "{shown:?}");
    let nothing = shop.redrive(&["--reason", "Undecodable"], true);
    assert!(nothing.starts_with("redrive: target=handler matched=0 "), "{nothing}");

    // It fails again: a new dead letter takes the place of each old one, and next time they are parked.
    assert_eq!(
        shop.redrive(&["--max-replays", "1"], false),
        "redrive: target=handler matched=5 replayed=5 succeeded=0 failed=5 parked=0 unreadable=0"
    );
    assert_eq!(
        shop.redrive(&["--max-replays", "1"], true),
        "redrive: target=handler matched=5 replayed=0 succeeded=0 failed=0 parked=5 unreadable=0"
    );

    // A filter leaves the others, wherever they stand.
    shop.stock().await;
    for id in ["3", "1"] {
        assert_eq!(
            shop.redrive(&["--event-id", id], true),
            "redrive: target=handler matched=1 replayed=1 succeeded=1 failed=0 parked=0 unreadable=0"
        );
    }
    assert_eq!((shop.waiting(), shop.reserved().await), (3, 2));
    assert_eq!(
        shop.redrive(&[], true),
        "redrive: target=handler matched=3 replayed=3 succeeded=3 failed=0 parked=0 unreadable=0"
    );
    assert_eq!(shop.waiting(), 0);
    shop.assert_reserved_once(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_back_to_a_kafka_topic_is_what_it_was_and_recognised_by_others() {
    let shop = Shop::open().await;
    let analytics = "handler: {analytics: {}}\nidempotency: {store: {memory: {}}}";
    let others = start(&shop.server, "analytics", Path::new("/nonexistent"), analytics);
    shop.publish_refused(5).await;
    eventually("the others have them", PATIENCE, || others.orders() == 5).await;
    shop.stock().await;

    let one = shop.redrive(&["--to", "source", "--event-id", "3"], true);
    assert!(one.starts_with("redrive: target=source matched=1 replayed=1 succeeded=1 failed=0"), "{one}");
    assert_eq!(
        shop.redrive(&["--to", "source"], true),
        "redrive: target=source matched=4 replayed=4 succeeded=4 failed=0 parked=0 unreadable=0"
    );

    until("they are reserved", PATIENCE, async || shop.reserved().await == 5).await;
    eventually("the others skip them", PATIENCE, || others.total("duplicatesSkipped") == 5).await;
    assert_eq!((others.orders(), shop.waiting()), (5, 0));
    shop.assert_reserved_once(5).await;
    let records = shop.server.read("orders", PARTITIONS, 10);
    for again in records.iter().filter(|record| record.headers.get_str("millrace-replays") == Some("1")) {
        let first = records.iter().find(|record| record.key == again.key).unwrap();
        assert_eq!((first.partition, &first.payload), (again.partition, &again.payload));
        assert_eq!(first.headers.get_str("shop"), again.headers.get_str("shop"));
    }
    assert_eq!(records.iter().filter(|record| record.headers.get_str("millrace-replays").is_some()).count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_on_kafka_that_is_killed_loses_nothing_does_nothing_twice_and_goes_on() {
    const COUNT: u32 = 120;
    let shop = Shop::open().await;
    shop.publish_refused(COUNT).await;
    shop.stock().await;

    // Killed in the middle, once on the way to the handler and once on the way to the source.
    for (target, done) in [("handler", 20), ("source", 60)] {
        let mut killed = shop.runtime.redrive(&["--to", target, "--per-second", "40"]).spawn().unwrap();
        until("it is at work", PATIENCE, async || shop.reserved().await >= done).await;
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(shop.reserved().await < i64::from(COUNT), "it was killed in the middle");
    }
    let left = shop.waiting();
    assert!(left > 0 && left < u64::from(COUNT), "{left} wait");

    let rest = shop.redrive(&["--per-second", "1000"], true);
    assert!(rest.contains(&format!("matched={left} replayed={left} succeeded={left} ")), "{rest}");

    assert_eq!(shop.waiting(), 0);
    until("all are reserved", Duration::from_secs(30), async || shop.reserved().await == i64::from(COUNT)).await;
    shop.assert_reserved_once(COUNT).await;
}
