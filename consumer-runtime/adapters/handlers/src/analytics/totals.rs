//! The sums. Pure.

use std::collections::{BTreeMap, HashSet};

use millrace_events::{Money, OrderPlaced, PaymentProcessed, PaymentStatus, ShopEvent};
use sha2::{Digest, Sha256};

/// The name under which is added up what no name is kept for.
pub(super) const OTHER: &str = "other";

/// Longest name in bytes that is kept. Longer ones are added up under `other`.
const NAME_BYTES_MAX: usize = 128;

/// How much is told apart. What comes after that counts in all sums, and under the name `other`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AnalyticsLimits {
    /// Most customers that are counted. Each takes some 30 bytes.
    pub customers_max: usize,
    /// Most products with a sum of their own. They are all in `/status`, which the operator reads up to 1 MiB.
    pub products_max: usize,
    /// Most payment methods with a sum of their own.
    pub payment_methods_max: usize,
}

/// Sums over the shop's events.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Sum of the total amounts of all orders.
    pub revenue: Money,
    /// Orders placed.
    pub orders: u64,
    /// Orders shipped.
    pub shipments: u64,
    /// Customers with an order; when more than the bound have one, the bound.
    pub customers: u64,
    /// Payments that succeeded.
    pub payments_succeeded: u64,
    /// Payments that failed.
    pub payments_failed: u64,
    /// Amount of the successful payments by method.
    pub amount_by_payment_method: BTreeMap<String, Money>,
    /// Items sold by product.
    pub quantity_by_product: BTreeMap<String, u64>,
}

/// The sums, and what is needed to go on with them.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) totals: Totals,
    limits: AnalyticsLimits,
    /// Hashes, because a customer's id may be long: 128 bits of SHA-256 do not meet by chance.
    customers: HashSet<[u8; 16]>,
}

/// A sum that has too many digits to be exact. Nothing was added.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the amount is too large to be added exactly")]
pub(super) struct Overflow;

impl Totals {
    /// Revenue divided by orders, rounded to cents; zero before the first order.
    pub fn average_order_value(&self) -> Money {
        self.revenue.average(self.orders).unwrap_or(Money::ZERO)
    }
}

impl Ledger {
    pub(super) fn new(limits: AnalyticsLimits) -> Self {
        Self { totals: Totals::default(), limits, customers: HashSet::new() }
    }

    /// Adds an event, all of it or nothing.
    pub(super) fn add(&mut self, event: &ShopEvent) -> Result<(), Overflow> {
        match event {
            ShopEvent::OrderPlaced(order) => self.add_order(order),
            ShopEvent::OrderShipped(_) => {
                self.totals.shipments = self.totals.shipments.saturating_add(1);
                Ok(())
            }
            ShopEvent::PaymentProcessed(payment) => self.add_payment(payment),
        }
    }

    fn add_order(&mut self, order: &OrderPlaced) -> Result<(), Overflow> {
        let totals = &mut self.totals;
        totals.revenue = totals.revenue.checked_add(order.total_amount).ok_or(Overflow)?;
        totals.orders = totals.orders.saturating_add(1);
        if self.customers.len() < self.limits.customers_max && self.customers.insert(digest(&order.customer_id)) {
            totals.customers = totals.customers.saturating_add(1);
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
            ledger.add(&ShopEvent::OrderPlaced(order(id))).unwrap();
        }

        let totals = ledger.totals;
        assert_eq!((totals.revenue.to_string().as_str(), totals.orders, totals.customers), ("75.0", 3, 1));
        assert_eq!(totals.quantity_by_product.get("p1"), Some(&6));
        assert_eq!(totals.average_order_value(), "25.00".parse().unwrap());
    }

    #[test]
    fn beyond_the_bounds_nothing_grows_and_every_sum_stays_right() {
        let mut ledger = Ledger::new(LIMITS);
        let long = "p".repeat(NAME_BYTES_MAX + 1);
        for (number, product) in ["a", &long, "b", "c", "a"].into_iter().enumerate() {
            let mut order = order("1");
            order.customer_id = format!("customer-{number}");
            order.items[0].product_id = product.to_owned();
            ledger.add(&ShopEvent::OrderPlaced(order)).unwrap();
        }

        let totals = ledger.totals;
        assert_eq!((totals.orders, totals.customers), (5, 2));
        let expected = [("a", 4), (OTHER, 6)].map(|(name, sold)| (name.to_owned(), sold));
        assert_eq!(totals.quantity_by_product, BTreeMap::from(expected));
    }

    #[test]
    fn an_amount_that_cannot_be_added_exactly_changes_nothing() {
        let largest: Money = "79228162514264337593543950335".parse().unwrap();
        let mut ledger = Ledger::new(LIMITS);
        ledger.add(&payment(largest, "card")).unwrap();
        let before = ledger.totals.clone();

        ledger.add(&payment(largest, "card")).unwrap_err();

        assert_eq!(ledger.totals, before);
    }

    proptest! {
        #[test]
        fn payments_add_up_to_the_cent_whatever_their_methods(payments in prop::collection::vec((0_i64..1_000_000, "[a-d]"), 0..50)) {
            let mut ledger = Ledger::new(LIMITS);
            for (cents, method) in &payments {
                ledger.add(&payment(Money::from_cents(*cents), method)).unwrap();
            }

            let sums = ledger.totals.amount_by_payment_method.values();
            let all = sums.fold(Money::ZERO, |sum, amount| sum.checked_add(*amount).unwrap());
            prop_assert_eq!(all, Money::from_cents(payments.iter().map(|(cents, _)| cents).sum()));
        }
    }
}
