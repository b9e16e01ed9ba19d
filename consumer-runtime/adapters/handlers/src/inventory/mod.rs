//! The `inventory` handler: reserves stock for orders, for all items of an order or none.

mod wanted;

use async_trait::async_trait;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::{Event, Reason, ShopEvent};
use millrace_postgres::{Component, Effect, EffectError, Inbox, Transaction};

use self::wanted::Wanted;
use crate::shop_event;

/// The shop's stock, and what was reserved from it. Reservations are only ever added: together with `stock` they show
/// that no event took anything twice.
const TABLES: Component = Component {
    name: "inventory",
    migrations: &["CREATE TABLE millrace.stock ( \
           product_id text PRIMARY KEY, \
           available bigint NOT NULL CHECK (available >= 0), \
           reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0) \
         ) WITH (fillfactor = 70); \
         CREATE TABLE millrace.reservations ( \
           id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
           order_id text NOT NULL, \
           product_id text NOT NULL REFERENCES millrace.stock, \
           quantity bigint NOT NULL CHECK (quantity > 0), \
           event_source text NOT NULL, \
           event_id text NOT NULL, \
           reserved_at timestamptz NOT NULL DEFAULT clock_timestamp() \
         ); \
         CREATE INDEX reservations_order_id ON millrace.reservations (order_id)"],
    tables: &[("millrace.stock", "SELECT,UPDATE"), ("millrace.reservations", "SELECT,INSERT")],
    sequences: &[],
};

/// Locks what an order needs, always in the same order, so that two orders never wait for each other in a circle.
const LOCK: &str =
    "SELECT product_id, available FROM millrace.stock WHERE product_id = ANY ($1) ORDER BY product_id FOR UPDATE";

const RESERVE: &str = "
WITH wanted AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS w (product_id, quantity)),
taken AS (
  UPDATE millrace.stock AS s SET available = s.available - wanted.quantity, reserved = s.reserved + wanted.quantity
  FROM wanted WHERE s.product_id = wanted.product_id)
INSERT INTO millrace.reservations (order_id, product_id, quantity, event_source, event_id)
SELECT $3, wanted.product_id, wanted.quantity, $4, $5 FROM wanted ORDER BY wanted.product_id";

/// Reserves stock for each order placed, in the transaction that records the event as done. Other events of the shop are
/// done without an effect.
pub struct InventoryHandler {
    inbox: Inbox,
}

impl InventoryHandler {
    /// A handler that reserves in the inbox's database.
    pub fn new(inbox: Inbox) -> Self {
        Self { inbox }
    }
}

#[async_trait]
impl Handler for InventoryHandler {
    async fn call(&self, event: &Event, context: &Context<'_>) -> Outcome {
        let shop_event = match shop_event(event) {
            Ok(shop_event) => shop_event,
            Err(outcome) => return outcome,
        };
        let wanted = match &shop_event {
            ShopEvent::OrderPlaced(order) => Wanted::by(&order.items),
            ShopEvent::OrderShipped(_) | ShopEvent::PaymentProcessed(_) => Some(Wanted::default()),
        };
        let Some(wanted) = wanted else {
            return Outcome::permanent(
                Reason::InvalidData,
                "the order's quantities add up to more than can be counted",
            );
        };
        self.inbox.commit(context.hold, &Reservation { event, order_id: shop_event.order_id(), wanted }).await
    }

    async fn check(&self) -> Result<(), Trouble> {
        self.inbox.database().install(&TABLES).await
    }

    fn records(&self) -> bool {
        true
    }
}

/// What one event reserves.
struct Reservation<'a> {
    event: &'a Event,
    order_id: &'a str,
    wanted: Wanted<'a>,
}

#[async_trait]
impl Effect for Reservation<'_> {
    async fn apply(&self, transaction: &Transaction<'_>) -> Result<(), EffectError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let (products, quantities) = self.wanted.columns();
        let statement = transaction.prepare_cached(LOCK).await?;
        let rows = transaction.query(&statement, &[&products]).await?;
        let stock = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        if let Some(error) = self.wanted.refusal(&stock) {
            return Err(EffectError::Refused { reason: Reason::HandlerRejected, error });
        }
        let statement = transaction.prepare_cached(RESERVE).await?;
        transaction
            .execute(&statement, &[&products, &quantities, &self.order_id, &self.event.source, &self.event.id.as_str()])
            .await?;
        Ok(())
    }
}
