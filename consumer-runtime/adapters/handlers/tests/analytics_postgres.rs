//! Protects `analytics` on a real PostgreSQL: its sums are those of the same events in memory, to the cent, whatever is
//! delivered twice.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

#[path = "support/database.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use millrace_core::{
    outcome::Outcome,
    ports::{Context, Handler as _},
};
use millrace_events::Event;
use millrace_handlers::{
    AnalyticsHandler, AnalyticsLimits, AnalyticsSource as _, AnalyticsSummary, PostgresAnalyticsHandler,
};
use millrace_testkit::{clock::WallClock, sample};

use crate::support::{Shop, handle};

/// Event number `number` of a shop: an order, a shipment or a payment.
fn event(number: u32) -> Event {
    let head =
        format!(r#""event_id":"{number}","timestamp":"2026-01-02T03:04:05Z","version":1,"order_id":"o{number}""#);
    let (subject, body) = match number % 4 {
        0 | 1 => (
            "orders.placed",
            format!(
                r#"{{{head},"event_type":"OrderPlaced","customer_id":"c{}","customer_email":"a@b","items":[
                {{"product_id":"p{}","product_name":"P","quantity":{},"price":1}},
                {{"product_id":"p1","product_name":"P","quantity":1,"price":1}}],"total_amount":{}.{:02}}}"#,
                number % 17,
                number % 5,
                number % 3,
                number,
                number % 100
            ),
        ),
        2 => {
            ("orders.shipped", format!(r#"{{{head},"event_type":"OrderShipped","tracking_number":"t","carrier":"c"}}"#))
        }
        _ => (
            "payments.processed",
            format!(
                r#"{{{head},"event_type":"PaymentProcessed","payment_id":"p","amount":{}.10,"payment_method":"m{}","status":"{}"}}"#,
                number,
                number % 3,
                if number.is_multiple_of(5) { "FAILED" } else { "SUCCESS" }
            ),
        ),
    };
    sample::decode(subject, body)
}

/// A summary without the times, which differ.
fn sums(summary: AnalyticsSummary) -> AnalyticsSummary {
    AnalyticsSummary { processing: Duration::ZERO, processing_max: Duration::ZERO, ..summary }
}

#[tokio::test]
async fn the_sums_are_those_of_the_same_events_in_memory_though_all_are_delivered_twice_at_once() {
    let shop = Shop::open().await;
    let handler = PostgresAnalyticsHandler::new(shop.inbox(), "shop/analytics".to_owned());
    handler.check().await.unwrap();
    let limits = AnalyticsLimits { customers_max: 1000, products_max: 1000, payment_methods_max: 1000 };
    let memory = AnalyticsHandler::new(limits, WallClock::start());
    let events: Vec<Event> = (0..400).map(event).collect();
    for event in &events {
        assert_eq!(memory.call(event, &Context { attempt: 1, hold: None, trace: None }).await, Outcome::Done);
    }

    // The second delivery of an event comes while others are at work, and after its first.
    futures::stream::iter(&events)
        .for_each_concurrent(8, async |event| {
            handle(&shop, &handler, event).await;
            handle(&shop, &handler, event).await;
        })
        .await;
    handler.refresh().await;

    let summary = handler.summary();
    assert!(summary.processing_max > Duration::ZERO && summary.processing >= summary.processing_max);
    assert_eq!(sums(summary), sums(memory.summary()));
    let of_others = PostgresAnalyticsHandler::new(shop.inbox(), "shop/other".to_owned());
    of_others.refresh().await;
    assert_eq!(of_others.summary().orders, 0, "consumers that share a database do not mix");
}

#[tokio::test]
async fn absurd_events_are_refused_and_spoil_no_sum() {
    let shop = Shop::open().await;
    let handler = PostgresAnalyticsHandler::new(shop.inbox(), "shop/analytics".to_owned());
    handler.check().await.unwrap();
    let long = "x".repeat(100_000);
    let order = |id: &str, customer: &str, product: &str, amount: &str| {
        let body = format!(
            r#"{{"event_id":"{id}","event_type":"OrderPlaced","timestamp":"1833-01-02T03:04:05Z","version":1,"order_id":"o",
            "customer_id":"{customer}","customer_email":"a@b","total_amount":{amount},
            "items":[{{"product_id":"{product}","product_name":"P","quantity":4294967295,"price":1}}]}}"#
        );
        sample::decode("orders.placed", body)
    };

    for refused in [order("1", "c", "p", "79228162514264337593543950335"), order("2", "c\\u0000", "p", "1")] {
        let outcome = shop.once(&handler, &refused).await;
        let Outcome::Failed(failure) = &outcome else { panic!("{outcome:?}") };
        assert!(!outcome.is_retryable(), "{}", failure.error);
    }
    assert_eq!(shop.once(&handler, &order("3", &long, &long, "1.10")).await, Outcome::Done);
    assert_eq!(shop.once(&handler, &order("4", &long, "p", "2.20")).await, Outcome::Done);

    let source = Arc::new(handler);
    source.refresh().await;
    let summary = source.summary();
    assert_eq!((summary.revenue.as_str(), summary.orders, summary.customers), ("3.30", 2, 1));
    assert_eq!(summary.quantity_by_product.get("other"), Some(&4_294_967_295));
}
