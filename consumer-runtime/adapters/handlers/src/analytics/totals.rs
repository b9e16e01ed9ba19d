//! The sums. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use millrace_events::{Money, OrderPlaced, PaymentProcessed, PaymentStatus, ShopEvent};
use sha2::{Digest, Sha256};

use crate::analytics::summary::AnalyticsSummary;

/// The name under which is added up what no name is kept for.
pub(super) const OTHER: &str = "other";

/// Longest name in bytes that is kept. Longer ones are added up under `other`.
pub(super) const NAME_BYTES_MAX: usize = 128;

/// How much is told apart. What comes after that counts in all sums, and under the name `other`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AnalyticsLimits {
    /// Most customers that are counted. Each takes some 40 bytes.
    pub customers_max: usize,
    /// Most products with a sum of their own. They are all in `/status`, which the operator reads up to 1 MiB.
    pub products_max: usize,
    /// Most payment methods with a sum of their own.
    pub payment_methods_max: usize,
}

/// Sums over the shop's events.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Totals {
    /// Sum of the total amounts of all orders.
    pub(super) revenue: Money,
    /// Orders placed.
    pub(super) orders: u64,
    /// Orders shipped.
    pub(super) shipments: u64,
    /// Customers with an order; when more than the bound have one, the bound.
    pub(super) customers: u64,
    /// Orders of these customers.
    pub(super) customers_orders: u64,
    /// Most orders of one of them.
    pub(super) customers_orders_max: u64,
    /// Payments that succeeded.
    pub(super) payments_succeeded: u64,
    /// Payments that failed.
    pub(super) payments_failed: u64,
    /// Amount of the successful payments by method.
    pub(super) amount_by_payment_method: BTreeMap<String, Money>,
    /// Items sold by product.
    pub(super) quantity_by_product: BTreeMap<String, u64>,
    /// Events handled.
    pub(super) processed: u64,
    /// The time from when each happened until it was handled, added up.
    pub(super) processing: Duration,
    /// The longest such time.
    pub(super) processing_max: Duration,
}

/// The sums, and what is needed to go on with them.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) totals: Totals,
    limits: AnalyticsLimits,
    /// Hashes, because a customer's id may be long: 128 bits of SHA-256 do not meet by chance.
    customers: HashMap<[u8; 16], u64>,
}

/// A sum that has too many digits to be exact. Nothing was added.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the amount is too large to be added exactly")]
pub(super) struct Overflow;

impl Totals {
    /// What is shown of them.
    pub(super) fn summary(&self) -> AnalyticsSummary {
        let average_order_value = self.revenue.average(self.orders).unwrap_or(Money::ZERO);
        AnalyticsSummary {
            revenue: self.revenue.to_string(),
            orders: self.orders,
            shipments: self.shipments,
            customers: self.customers,
            customers_orders: self.customers_orders,
            customers_orders_max: self.customers_orders_max,
            average_order_value: average_order_value.to_string(),
            payments_succeeded: self.payments_succeeded,
            payments_failed: self.payments_failed,
            processed: self.processed,
            processing: self.processing,
            processing_max: self.processing_max,
            amount_by_payment_method: self
                .amount_by_payment_method
                .iter()
                .map(|(method, amount)| (method.clone(), amount.to_string()))
                .collect(),
            quantity_by_product: self.quantity_by_product.clone(),
        }
    }
}

impl Ledger {
    pub(super) fn new(limits: AnalyticsLimits) -> Self {
        Self { totals: Totals::default(), limits, customers: HashMap::new() }
    }

    /// Adds an event that took `processing` from when it happened until now, all of it or nothing.
    pub(super) fn add(&mut self, event: &ShopEvent, processing: Duration) -> Result<(), Overflow> {
        match event {
            ShopEvent::OrderPlaced(order) => self.add_order(order)?,
            ShopEvent::OrderShipped(_) => self.totals.shipments = self.totals.shipments.saturating_add(1),
            ShopEvent::PaymentProcessed(payment) => self.add_payment(payment)?,
        }
        let totals = &mut self.totals;
        totals.processed = totals.processed.saturating_add(1);
        totals.processing = totals.processing.saturating_add(processing);
        totals.processing_max = totals.processing_max.max(processing);
        Ok(())
    }

    fn add_order(&mut self, order: &OrderPlaced) -> Result<(), Overflow> {
        let totals = &mut self.totals;
        totals.revenue = totals.revenue.checked_add(order.total_amount).ok_or(Overflow)?;
        totals.orders = totals.orders.saturating_add(1);
        let customer = digest(&order.customer_id);
        if self.customers.len() < self.limits.customers_max || self.customers.contains_key(&customer) {
            let orders = self.customers.entry(customer).or_default();
            *orders = orders.saturating_add(1);
            totals.customers_orders = totals.customers_orders.saturating_add(1);
            totals.customers_orders_max = totals.customers_orders_max.max(*orders);
            totals.customers = u64::try_from(self.customers.len()).unwrap_or(u64::MAX);
        }
        for item in &order.items {
            let product = name(&totals.quantity_by_product, &item.product_id, self.limits.products_max);
            let sold = totals.quantity_by_product.entry(product).or_default();
            *sold = sold.saturating_add(u64::from(item.quantity));
        }
        Ok(())
    }

    fn add_payment(&mut self, payment: &PaymentProcessed) -> Result<(), Overflow> {
        let totals = &mut self.totals;
        if payment.status == PaymentStatus::Failed {
            totals.payments_failed = totals.payments_failed.saturating_add(1);
            return Ok(());
        }
        let sums = &mut totals.amount_by_payment_method;
        let method = name(sums, &payment.payment_method, self.limits.payment_methods_max);
        let before = sums.get(&method).copied().unwrap_or_default();
        let after = before.checked_add(payment.amount).ok_or(Overflow)?;
        sums.insert(method, after);
        totals.payments_succeeded = totals.payments_succeeded.saturating_add(1);
        Ok(())
    }
}

/// The name to add up under: `wanted`, or `other` when there is no room for another one.
fn name<T>(sums: &BTreeMap<String, T>, wanted: &str, names_max: usize) -> String {
    let has_room = sums.len() < names_max && wanted.len() <= NAME_BYTES_MAX;
    if has_room || sums.contains_key(wanted) { wanted.to_owned() } else { OTHER.to_owned() }
}

fn digest(customer: &str) -> [u8; 16] {
    let digest = Sha256::digest(customer);
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use millrace_testkit::sample;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: AnalyticsLimits = AnalyticsLimits { customers_max: 2, products_max: 2, payment_methods_max: 1 };

    fn add(ledger: &mut Ledger, event: &ShopEvent) -> Result<(), Overflow> {
        ledger.add(event, Duration::from_millis(20))
    }

    fn order(id: &str) -> OrderPlaced {
        let Ok(ShopEvent::OrderPlaced(order)) = ShopEvent::from_event(&sample::event(id)) else { panic!() };
        order
    }

    fn payment(cents: Money, method: &str) -> ShopEvent {
        ShopEvent::PaymentProcessed(PaymentProcessed {
            meta: order("1").meta,
            order_id: "order-1".to_owned(),
            payment_id: "payment-1".to_owned(),
            amount: cents,
            payment_method: method.to_owned(),
            status: PaymentStatus::Success,
        })
    }

    #[test]
    fn orders_add_up_exactly() {
        let mut ledger = Ledger::new(LIMITS);

        for id in ["1", "2", "3"] {
            add(&mut ledger, &ShopEvent::OrderPlaced(order(id))).unwrap();
        }

        let totals = ledger.totals;
        assert_eq!((totals.revenue.to_string().as_str(), totals.orders, totals.customers), ("75.0", 3, 1));
        assert_eq!(totals.quantity_by_product.get("p1"), Some(&6));
        assert_eq!((totals.customers_orders, totals.customers_orders_max), (3, 3));
        assert_eq!((totals.processed, totals.processing.as_millis(), totals.processing_max.as_millis()), (3, 60, 20));
        let summary = totals.summary();
        let average: Money = summary.average_order_value.parse().unwrap();
        assert_eq!((average, summary.orders_per_customer().as_str()), (Money::from_cents(2500), "3.00"));
    }

    #[test]
    fn beyond_the_bounds_nothing_grows_and_every_sum_stays_right() {
        let mut ledger = Ledger::new(LIMITS);
        let long = "p".repeat(NAME_BYTES_MAX + 1);
        for (number, product) in ["a", &long, "b", "c", "a"].into_iter().enumerate() {
            let mut order = order("1");
            order.customer_id = format!("customer-{number}");
            order.items[0].product_id = product.to_owned();
            add(&mut ledger, &ShopEvent::OrderPlaced(order)).unwrap();
        }

        let totals = ledger.totals;
        assert_eq!((totals.orders, totals.customers, totals.customers_orders), (5, 2, 2));
        let expected = [("a", 4), (OTHER, 6)].map(|(name, sold)| (name.to_owned(), sold));
        assert_eq!(totals.quantity_by_product, BTreeMap::from(expected));
    }

    #[test]
    fn an_amount_that_cannot_be_added_exactly_changes_nothing() {
        let largest: Money = "79228162514264337593543950335".parse().unwrap();
        let mut ledger = Ledger::new(LIMITS);
        add(&mut ledger, &payment(largest, "card")).unwrap();
        let before = ledger.totals.clone();

        add(&mut ledger, &payment(largest, "card")).unwrap_err();

        assert_eq!(ledger.totals, before);
    }

    proptest! {
        #[test]
        fn payments_add_up_to_the_cent_whatever_their_methods(payments in prop::collection::vec((0_i64..1_000_000, "[a-d]"), 0..50)) {
            let mut ledger = Ledger::new(LIMITS);
            for (cents, method) in &payments {
                add(&mut ledger, &payment(Money::from_cents(*cents), method)).unwrap();
            }

            let sums = ledger.totals.amount_by_payment_method.values();
            let all = sums.fold(Money::ZERO, |sum, amount| sum.checked_add(*amount).unwrap());
            prop_assert_eq!(all, Money::from_cents(payments.iter().map(|(cents, _)| cents).sum()));
        }
    }
}
