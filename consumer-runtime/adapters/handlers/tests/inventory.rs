//! Protects `inventory` on a real PostgreSQL: all items of an order or none, and each order once, whatever dies.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

#[path = "support/database.rs"]
mod support;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures::future::join_all;
use millrace_core::{
    outcome::{Effect, FailureClass, Outcome},
    ports::{Claim, Context, Handler as _, Hold, IdempotencyStore as _},
};
use millrace_events::{Event, Reason};
use millrace_handlers::InventoryHandler;
use millrace_testkit::sample;

use crate::support::{Shop, event_key, handle};

const PRODUCTS: u32 = 10;

/// An order of these products, with these quantities.
fn order(id: &str, lines: &[(&str, u32)]) -> Event {
    let items: Vec<_> = lines
        .iter()
        .map(|(product, quantity)| {
            serde_json::json!({"product_id": product, "product_name": "P", "quantity": quantity, "price": 1})
        })
        .collect();
    let body = serde_json::json!({
        "event_id": id, "event_type": "OrderPlaced", "timestamp": "2026-01-02T03:04:05Z", "version": 1,
        "order_id": format!("order-{id}"), "customer_id": "c", "customer_email": "ada@example.com", "items": items,
        "total_amount": 1,
    });
    sample::decode("orders.placed", body.to_string())
}

async fn shop(stock: i64) -> (Shop, InventoryHandler) {
    let shop = Shop::open().await;
    let handler = InventoryHandler::new(shop.inbox());
    handler.check().await.unwrap();
    shop.sql
        .batch_execute(&format!(
            "INSERT INTO millrace.stock SELECT 'p' || i, {stock} FROM generate_series(1, {PRODUCTS}) AS i"
        ))
        .await
        .unwrap();
    (shop, handler)
}

/// Whether every piece that is not available any more is reserved, and written down once.
async fn assert_stock_adds_up(shop: &Shop, stock: i64) {
    let wrong = shop
        .number(&format!(
            "SELECT count(*) FROM millrace.stock AS s LEFT JOIN \
               (SELECT product_id, sum(quantity) AS taken FROM millrace.reservations GROUP BY product_id) AS r \
               USING (product_id) \
             WHERE available + reserved <> {stock} OR reserved <> coalesce(taken, 0)"
        ))
        .await;
    assert_eq!(wrong, 0, "products whose stock does not add up");
}

fn refused(outcome: &Outcome) -> (Reason, &str) {
    match outcome {
        Outcome::Failed(failure) => match failure.class {
            FailureClass::Permanent(reason) => (reason, failure.error.as_str()),
            FailureClass::Retryable => panic!("{outcome:?}"),
        },
        Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn an_order_gets_all_of_its_items_or_none_and_a_refusal_names_no_data() {
    let (shop, handler) = shop(10).await;

    assert_eq!(shop.once(&handler, &order("1", &[("p1", 3), ("p2", 4), ("p1", 2)])).await, Outcome::Done);
    let short = shop.once(&handler, &order("2", &[("p2", 1), ("p1", 6)])).await;
    let unknown = shop.once(&handler, &order("3", &[("p2", 1), ("secret-product", 1)])).await;
    let unprintable = shop.once(&handler, &order("4", &[("p\0", 1)])).await;

    assert_eq!(refused(&short), (Reason::HandlerRejected, "not enough stock of 1 of 2 products of the order"));
    assert_eq!(refused(&unknown), (Reason::HandlerRejected, "1 of 2 products of the order are not in millrace.stock"));
    assert_eq!(refused(&unprintable), (Reason::InvalidData, "PostgreSQL refuses the data (SQLSTATE 22021)"));
    assert_eq!(shop.number("SELECT count(*) FROM millrace.reservations").await, 2, "of the first order only");
    assert_eq!(shop.number("SELECT sum(reserved)::bigint FROM millrace.stock").await, 9);
    assert_stock_adds_up(&shop, 10).await;
    assert_eq!(shop.store.claim(&event_key(&order("1", &[])), &support::WISH_OTHER).await.unwrap(), Claim::Conflict);
    let shipped = r#"{"event_id":"s","event_type":"OrderShipped","timestamp":"2026-01-02T03:04:05Z","version":1,
        "order_id":"o","tracking_number":"t","carrier":"c"}"#;
    assert_eq!(shop.once(&handler, &sample::decode("orders.shipped", shipped)).await, Outcome::Done);
}

#[tokio::test]
async fn whoever_was_taken_over_changes_nothing() {
    let (shop, handler) = shop(10).await;
    let event = order("1", &[("p1", 1)]);
    let zombie = shop.claim(&event, Duration::from_millis(50)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let holder = shop.claim(&event, Duration::from_secs(30)).await.unwrap();

    for (hold, expected) in [(&zombie, Outcome::Fenced), (&holder, Outcome::Done), (&zombie, Outcome::Fenced)] {
        assert_eq!(handler.call(&event, &Context { attempt: 1, hold: Some(hold), trace: None }).await, expected);
    }

    assert_eq!(shop.number("SELECT count(*) FROM millrace.reservations").await, 1);
    assert!(
        handler.call(&event, &Context { attempt: 1, hold: None, trace: None }).await.is_retryable(),
        "without a claim: nothing"
    );
    assert_stock_adds_up(&shop, 10).await;
}

#[tokio::test]
async fn orders_that_need_the_same_products_in_any_order_do_not_block_each_other_for_good() {
    let (shop, handler) = shop(1_000_000).await;
    let orders = (0..200).map(|number| {
        let (first, second) = if number % 2 == 0 { ("p1", "p2") } else { ("p2", "p1") };
        order(&number.to_string(), &[(first, 1), (second, 1), ("p3", 1)])
    });
    let orders: Vec<Event> = orders.collect();

    let outcomes = join_all(orders.iter().map(|order| shop.once(&handler, order))).await;

    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done));
    assert_eq!(shop.number("SELECT count(*) FROM millrace.reservations").await, 600);
    assert_stock_adds_up(&shop, 1_000_000).await;
}

/// The connection dies at any point, most often while a commit is on its way. The commit takes longer than usual, so
/// that this is met often: the record then says what became of it.
#[tokio::test]
async fn hundreds_of_connections_cut_most_of_them_at_commit_double_nothing_and_lose_nothing() {
    const ORDERS: u32 = 600;
    const KILLS: u64 = 300;
    let stock = 1_000_000;
    let shop = Shop::open_with(&["commit_delay=4000", "commit_siblings=0"]).await;
    let handler = InventoryHandler::new(shop.inbox());
    handler.check().await.unwrap();
    shop.sql
        .batch_execute(&format!(
            "INSERT INTO millrace.stock SELECT 'p' || i, {stock} FROM generate_series(1, {PRODUCTS}) AS i"
        ))
        .await
        .unwrap();
    let (next, kills, at_commit) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let finished = AtomicBool::new(false);
    let worker = async || {
        loop {
            let number = u32::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
            // Orders go on for as long as connections are to be cut.
            if number >= ORDERS && kills.load(Ordering::Relaxed) >= KILLS {
                return number;
            }
            let lines = [(format!("p{}", number % PRODUCTS + 1), 1), (format!("p{}", (number * 7) % PRODUCTS + 1), 2)];
            let lines: Vec<_> = lines.iter().map(|(product, quantity)| (product.as_str(), *quantity)).collect();
            handle(&shop, &handler, &order(&number.to_string(), &lines)).await;
        }
    };
    let killer = async {
        while !finished.load(Ordering::Relaxed) && kills.load(Ordering::Relaxed) < KILLS {
            let row = shop
                .sql
                .query_one(
                    "SELECT count(pg_terminate_backend(pid)), count(*) FILTER (WHERE is_commit) FROM ( \
                       SELECT pid, query = 'COMMIT' AND state = 'active' AS is_commit FROM pg_stat_activity \
                       WHERE application_name = 'inventory' \
                       ORDER BY query = 'COMMIT' AND state = 'active' DESC, random() LIMIT 1) AS victim",
                    &[],
                )
                .await
                .unwrap();
            kills.fetch_add(u64::try_from(row.get::<_, i64>(0)).unwrap(), Ordering::Relaxed);
            at_commit.fetch_add(u64::try_from(row.get::<_, i64>(1)).unwrap(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let workers = async {
        let ended = join_all((0..8).map(|_| worker())).await;
        finished.store(true, Ordering::Relaxed);
        ended.into_iter().min().unwrap()
    };
    let (orders, ()) = tokio::join!(workers, killer);

    let (kills, at_commit) = (kills.load(Ordering::Relaxed), at_commit.load(Ordering::Relaxed));
    println!("orders={orders} kills={kills} at_commit={at_commit}");
    assert!(kills >= KILLS && at_commit >= KILLS / 4, "kills={kills} at_commit={at_commit}");
    let doubled = "SELECT count(*) FROM (SELECT event_id, product_id FROM millrace.reservations \
                   GROUP BY event_id, product_id HAVING count(*) > 1) AS d";
    assert_eq!(shop.number(doubled).await, 0);
    assert_eq!(shop.number("SELECT count(DISTINCT event_id) FROM millrace.reservations").await, i64::from(orders));
    assert_eq!(shop.number("SELECT sum(quantity)::bigint FROM millrace.reservations").await, i64::from(orders) * 3);
    assert_stock_adds_up(&shop, stock).await;
}

#[tokio::test]
async fn a_database_that_is_away_costs_a_retry_and_a_missing_table_is_told() {
    let (mut shop, handler) = shop(10).await;
    let event = order("1", &[("p1", 1)]);
    let hold: Hold = shop.claim(&event, Duration::from_secs(60)).await.unwrap();
    shop.sql.batch_execute("DROP TABLE millrace.stock CASCADE").await.unwrap();
    let outcome = handler.call(&event, &Context { attempt: 1, hold: Some(&hold), trace: None }).await;
    assert!(outcome.is_retryable(), "{outcome:?}");
    assert!(handler.check().await.unwrap_err().message.contains("stock"));

    shop.server.kill();
    let outcome = handler.call(&event, &Context { attempt: 1, hold: Some(&hold), trace: None }).await;
    let Outcome::Failed(failure) = &outcome else { panic!("{outcome:?}") };
    assert_eq!((failure.class, failure.effect), (FailureClass::Retryable, Effect::None));
}
