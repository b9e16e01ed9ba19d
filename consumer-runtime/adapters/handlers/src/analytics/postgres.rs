//! The sums in PostgreSQL: added in the transaction that records the event as done, so exact under redelivery, crashes and
//! any number of replicas.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::{Event, Money, OrderPlaced, PaymentProcessed, PaymentStatus, ShopEvent};
use millrace_postgres::{Component, DatabaseError, Effect, EffectError, Inbox, Transaction};
use sha2::{Digest, Sha256};
use tracing::debug;

use crate::{
    analytics::{
        summary::{AnalyticsSource, AnalyticsSummary},
        totals::{NAME_BYTES_MAX, OTHER},
    },
    shop_event,
};

/// Rows that each sum is spread over. Events that are handled at the same time rarely wait for each other's row.
const SHARDS: i16 = 8;

/// How old a summary may be before it is read again: whoever asks more often gets the same one.
const SUMMARY_AGE: Duration = Duration::from_secs(1);

/// Names in a summary; the sum of all others is under `other`. The operator reads up to 1 MiB of `/status`.
const PRODUCTS_MAX: i64 = 1_000;
const PAYMENT_METHODS_MAX: i64 = 100;

/// The tables of the sums. A sum has a limit that a shop never reaches, so that one absurd amount is refused and cannot
/// spoil it.
const TABLES: Component = Component {
    name: "analytics",
    migrations: &["CREATE TABLE millrace.analytics_totals ( \
           consumer text NOT NULL, shard smallint NOT NULL, \
           orders bigint NOT NULL, revenue numeric NOT NULL CHECK (abs(revenue) < 1e27), \
           customers bigint NOT NULL, customer_orders_max bigint NOT NULL, \
           shipments bigint NOT NULL, payments_succeeded bigint NOT NULL, payments_failed bigint NOT NULL, \
           processed bigint NOT NULL, processing_microseconds numeric NOT NULL, \
           processing_microseconds_max bigint NOT NULL, \
           PRIMARY KEY (consumer, shard)) WITH (fillfactor = 50); \
         CREATE TABLE millrace.analytics_customers ( \
           consumer text NOT NULL, customer_id text NOT NULL, orders bigint NOT NULL, \
           PRIMARY KEY (consumer, customer_id)) WITH (fillfactor = 90); \
         CREATE TABLE millrace.analytics_products ( \
           consumer text NOT NULL, product_id text NOT NULL, shard smallint NOT NULL, quantity bigint NOT NULL, \
           PRIMARY KEY (consumer, product_id, shard)) WITH (fillfactor = 70); \
         CREATE TABLE millrace.analytics_payment_methods ( \
           consumer text NOT NULL, method text NOT NULL, shard smallint NOT NULL, \
           amount numeric NOT NULL CHECK (abs(amount) < 1e27), \
           PRIMARY KEY (consumer, method, shard)) WITH (fillfactor = 50)"],
    tables: &[
        ("millrace.analytics_totals", "SELECT,INSERT,UPDATE"),
        ("millrace.analytics_customers", "SELECT,INSERT,UPDATE"),
        ("millrace.analytics_products", "SELECT,INSERT,UPDATE"),
        ("millrace.analytics_payment_methods", "SELECT,INSERT,UPDATE"),
    ],
    sequences: &[],
};

const ADD_CUSTOMER: &str = "
INSERT INTO millrace.analytics_customers AS c VALUES ($1, $2, 1)
ON CONFLICT (consumer, customer_id) DO UPDATE SET orders = c.orders + 1
RETURNING orders";

/// Products in their order, so that transactions that need the same rows take them in the same order.
const ADD_PRODUCTS: &str = "
INSERT INTO millrace.analytics_products AS p
SELECT $1, item.product_id, $2, item.quantity
FROM unnest($3::text[], $4::bigint[]) AS item (product_id, quantity) ORDER BY item.product_id
ON CONFLICT (consumer, product_id, shard) DO UPDATE SET quantity = p.quantity + excluded.quantity";

const ADD_PAYMENT: &str = "
INSERT INTO millrace.analytics_payment_methods AS m VALUES ($1, $2, $3, $4::text::numeric)
ON CONFLICT (consumer, method, shard) DO UPDATE SET amount = m.amount + excluded.amount";

/// The row that every event needs comes last: it is locked for the shortest time. Processing times are by the clock of
/// the server.
const ADD_TOTALS: &str = "
INSERT INTO millrace.analytics_totals AS t
SELECT $1, $2, $3, $4::text::numeric, $5, $6, $7, $8, $9, 1, took.microseconds, took.microseconds
FROM (SELECT greatest(0, (extract(epoch FROM clock_timestamp() - $10::timestamptz) * 1000000)::bigint) AS microseconds)
  AS took
ON CONFLICT (consumer, shard) DO UPDATE SET
  orders = t.orders + excluded.orders, revenue = t.revenue + excluded.revenue,
  customers = t.customers + excluded.customers,
  customer_orders_max = greatest(t.customer_orders_max, excluded.customer_orders_max),
  shipments = t.shipments + excluded.shipments,
  payments_succeeded = t.payments_succeeded + excluded.payments_succeeded,
  payments_failed = t.payments_failed + excluded.payments_failed,
  processed = t.processed + 1,
  processing_microseconds = t.processing_microseconds + excluded.processing_microseconds,
  processing_microseconds_max = greatest(t.processing_microseconds_max, excluded.processing_microseconds_max)";

const READ_TOTALS: &str = "
SELECT coalesce(sum(orders), 0)::bigint AS orders, coalesce(sum(revenue), 0)::text AS revenue,
  coalesce(round(sum(revenue) / nullif(sum(orders), 0), 2), 0)::text AS average_order_value,
  coalesce(sum(customers), 0)::bigint AS customers, coalesce(max(customer_orders_max), 0) AS customer_orders_max,
  coalesce(sum(shipments), 0)::bigint AS shipments,
  coalesce(sum(payments_succeeded), 0)::bigint AS payments_succeeded,
  coalesce(sum(payments_failed), 0)::bigint AS payments_failed,
  coalesce(sum(processed), 0)::bigint AS processed,
  coalesce(sum(processing_microseconds), 0)::float8 AS processing,
  coalesce(max(processing_microseconds_max), 0) AS processing_max
FROM millrace.analytics_totals WHERE consumer = $1";

const READ_PRODUCTS: &str = "
WITH sums AS (
  SELECT product_id AS name, sum(quantity) AS quantity, row_number() OVER (ORDER BY sum(quantity) DESC, product_id) AS place
  FROM millrace.analytics_products WHERE consumer = $1 GROUP BY product_id)
SELECT CASE WHEN place <= $2 THEN name ELSE $3 END AS name, sum(quantity)::text FROM sums GROUP BY 1";

const READ_PAYMENTS: &str = "
WITH sums AS (
  SELECT method AS name, sum(amount) AS amount, row_number() OVER (ORDER BY sum(amount) DESC, method) AS place
  FROM millrace.analytics_payment_methods WHERE consumer = $1 GROUP BY method)
SELECT CASE WHEN place <= $2 THEN name ELSE $3 END AS name, sum(amount)::text FROM sums GROUP BY 1";

/// Adds up the shop's events in PostgreSQL.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct PostgresAnalyticsHandler {
    inbox: Inbox,
    consumer: String,
    summary: Arc<Mutex<(Option<Instant>, AnalyticsSummary)>>,
}

impl PostgresAnalyticsHandler {
    /// A handler that adds up under the name of its consumer, so that consumers that share a database do not mix.
    pub fn new(inbox: Inbox, consumer: String) -> Self {
        Self { inbox, consumer, summary: Arc::default() }
    }

    async fn read(&self) -> Result<AnalyticsSummary, DatabaseError> {
        let session = self.inbox.database().session().await?;
        let totals = session.query_one(READ_TOTALS, &[&self.consumer]).await?;
        let products = session.query(READ_PRODUCTS, &[&self.consumer, &PRODUCTS_MAX, &OTHER]).await?;
        let payments = session.query(READ_PAYMENTS, &[&self.consumer, &PAYMENT_METHODS_MAX, &OTHER]).await?;
        session.finished();
        let count =
            |column: &str| Ok::<_, DatabaseError>(u64::try_from(totals.try_get::<_, i64>(column)?).unwrap_or(0));
        let orders = count("orders")?;
        let revenue: String = totals.try_get("revenue")?;
        // As in memory, where the sum has no more digits than that can hold.
        let average = revenue.parse::<Money>().ok().and_then(|revenue| revenue.average(orders));
        Ok(AnalyticsSummary {
            average_order_value: match (average, orders) {
                (Some(average), _) => average.to_string(),
                (None, 0) => Money::ZERO.to_string(),
                (None, _) => totals.try_get("average_order_value")?,
            },
            revenue,
            orders,
            shipments: count("shipments")?,
            customers: count("customers")?,
            // Every customer is counted here, so these are all orders.
            customers_orders: orders,
            customers_orders_max: count("customer_orders_max")?,
            payments_succeeded: count("payments_succeeded")?,
            payments_failed: count("payments_failed")?,
            processed: count("processed")?,
            processing: Duration::try_from_secs_f64(totals.try_get::<_, f64>("processing")? / 1e6).unwrap_or_default(),
            processing_max: Duration::from_micros(count("processing_max")?),
            amount_by_payment_method: payments
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect::<Result<_, DatabaseError>>()?,
            quantity_by_product: products
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get::<_, &str>(1)?.parse().unwrap_or(u64::MAX))))
                .collect::<Result<_, DatabaseError>>()?,
        })
    }
}

#[async_trait]
impl Handler for PostgresAnalyticsHandler {
    async fn call(&self, event: &Event, context: &Context<'_>) -> Outcome {
        let shop_event = match shop_event(event) {
            Ok(shop_event) => shop_event,
            Err(outcome) => return outcome,
        };
        let addition = Addition { event: &shop_event, consumer: &self.consumer, shard: fastrand::i16(0..SHARDS) };
        self.inbox.commit(context.hold, &addition).await
    }

    async fn check(&self) -> Result<(), Trouble> {
        self.inbox.database().install(&TABLES).await
    }

    fn records(&self) -> bool {
        true
    }
}

#[async_trait]
impl AnalyticsSource for PostgresAnalyticsHandler {
    async fn refresh(&self) {
        let is_fresh = |read_at: Instant| read_at.elapsed() < SUMMARY_AGE;
        if self.summary.lock().unwrap_or_else(PoisonError::into_inner).0.is_some_and(is_fresh) {
            return;
        }
        match self.read().await {
            Ok(summary) => {
                *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = (Some(Instant::now()), summary);
            }
            // The store reports what is wrong with the database; what was read last is still true of then.
            Err(error) => debug!(%error, "failed to read the sums"),
        }
    }

    fn summary(&self) -> AnalyticsSummary {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// What one event adds.
struct Addition<'a> {
    event: &'a ShopEvent,
    consumer: &'a str,
    shard: i16,
}

/// What one event adds to the row of totals.
#[derive(Default)]
struct Part {
    orders: i64,
    revenue: Money,
    customers: i64,
    customer_orders: i64,
    shipments: i64,
    payments_succeeded: i64,
    payments_failed: i64,
}

#[async_trait]
impl Effect for Addition<'_> {
    async fn apply(&self, transaction: &Transaction<'_>) -> Result<(), EffectError> {
        let part = match self.event {
            ShopEvent::OrderPlaced(order) => self.order(transaction, order).await?,
            ShopEvent::OrderShipped(_) => Part { shipments: 1, ..Part::default() },
            ShopEvent::PaymentProcessed(payment) => self.payment(transaction, payment).await?,
        };
        let happened_at: Timestamp = self.event.meta().timestamp;
        let statement = transaction.prepare_cached(ADD_TOTALS).await?;
        transaction
            .execute(
                &statement,
                &[
                    &self.consumer,
                    &self.shard,
                    &part.orders,
                    &part.revenue.to_string(),
                    &part.customers,
                    &part.customer_orders,
                    &part.shipments,
                    &part.payments_succeeded,
                    &part.payments_failed,
                    &happened_at,
                ],
            )
            .await?;
        Ok(())
    }
}

impl Addition<'_> {
    async fn order(&self, transaction: &Transaction<'_>, order: &OrderPlaced) -> Result<Part, EffectError> {
        let statement = transaction.prepare_cached(ADD_CUSTOMER).await?;
        let row = transaction.query_one(&statement, &[&self.consumer, &customer(&order.customer_id)]).await?;
        let customer_orders: i64 = row.try_get(0)?;
        let mut sold: BTreeMap<&str, i64> = BTreeMap::new();
        for item in &order.items {
            let name = if item.product_id.len() > NAME_BYTES_MAX { OTHER } else { item.product_id.as_str() };
            let quantity = sold.entry(name).or_default();
            *quantity = quantity.saturating_add(i64::from(item.quantity));
        }
        let (products, quantities): (Vec<&str>, Vec<i64>) = sold.into_iter().unzip();
        let statement = transaction.prepare_cached(ADD_PRODUCTS).await?;
        transaction.execute(&statement, &[&self.consumer, &self.shard, &products, &quantities]).await?;
        Ok(Part {
            orders: 1,
            revenue: order.total_amount,
            customers: i64::from(customer_orders == 1),
            customer_orders,
            ..Part::default()
        })
    }

    async fn payment(&self, transaction: &Transaction<'_>, payment: &PaymentProcessed) -> Result<Part, EffectError> {
        if payment.status == PaymentStatus::Failed {
            return Ok(Part { payments_failed: 1, ..Part::default() });
        }
        let method = if payment.payment_method.len() > NAME_BYTES_MAX { OTHER } else { &payment.payment_method };
        let statement = transaction.prepare_cached(ADD_PAYMENT).await?;
        transaction.execute(&statement, &[&self.consumer, &method, &self.shard, &payment.amount.to_string()]).await?;
        Ok(Part { payments_succeeded: 1, ..Part::default() })
    }
}

/// A customer's id as a key: of one that is too long for an index its hash.
fn customer(id: &str) -> String {
    if id.len() <= NAME_BYTES_MAX {
        return id.to_owned();
    }
    let mut key = "sha256:".to_owned();
    for byte in Sha256::digest(id) {
        write!(key, "{byte:02x}").expect("writing to a String cannot fail");
    }
    key
}
