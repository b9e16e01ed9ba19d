//! The sums. Pure.

use std::collections::{BTreeMap, BTreeSet};

use millrace_events::{Money, OrderPlaced, PaymentProcessed, PaymentStatus, ShopEvent};

/// The name under which is added up what no name is kept for.
const OTHER: &str = "other";

/// Sums over the shop's events.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Sum of the total amounts of all orders.
    pub revenue: Money,
    /// Orders placed.
    pub orders: u64,
    /// Orders shipped.
    pub shipments: u64,
    /// Payments that succeeded.
    pub payments_succeeded: u64,
    /// Payments that failed.
    pub payments_failed: u64,
    /// Amount of the successful payments by method.
    pub amount_by_payment_method: BTreeMap<String, Money>,
    /// Items sold by product.
    pub quantity_by_product: BTreeMap<String, u64>,
    customers: BTreeSet<String>,
    names_max: usize,
}

/// A sum that has too many digits to be exact. Nothing was added.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the amount is too large to be added exactly")]
pub(crate) struct Overflow;

impl Totals {
    pub(super) fn new(names_max: usize) -> Self {
        Self {
            revenue: Money::ZERO,
            orders: 0,
            shipments: 0,
            payments_succeeded: 0,
            payments_failed: 0,
            amount_by_payment_method: BTreeMap::new(),
            quantity_by_product: BTreeMap::new(),
            customers: BTreeSet::new(),
            names_max,
        }
    }

    /// Customers with an order; when more than the bound have one, those told apart.
    pub fn customers(&self) -> usize {
        self.customers.len()
    }

    /// Revenue divided by orders, rounded to cents; zero before the first order.
    pub fn average_order_value(&self) -> Money {
        self.revenue.average(self.orders).unwrap_or(Money::ZERO)
    }

    /// Adds an event, all of it or nothing.
    pub(super) fn add(&mut self, event: &ShopEvent) -> Result<(), Overflow> {
        match event {
            ShopEvent::OrderPlaced(order) => self.add_order(order),
            ShopEvent::OrderShipped(_) => {
                self.shipments = self.shipments.saturating_add(1);
                Ok(())
            }
            ShopEvent::PaymentProcessed(payment) => self.add_payment(payment),
        }
    }

    fn add_order(&mut self, order: &OrderPlaced) -> Result<(), Overflow> {
        self.revenue = self.revenue.checked_add(order.total_amount).ok_or(Overflow)?;
        self.orders = self.orders.saturating_add(1);
        if self.customers.len() < self.names_max {
            self.customers.insert(order.customer_id.clone());
        }
        for item in &order.items {
            let sold = slot(&mut self.quantity_by_product, &item.product_id, self.names_max, 0);
            *sold = sold.saturating_add(u64::from(item.quantity));
        }
        Ok(())
    }

    fn add_payment(&mut self, payment: &PaymentProcessed) -> Result<(), Overflow> {
        if payment.status == PaymentStatus::Failed {
            self.payments_failed = self.payments_failed.saturating_add(1);
            return Ok(());
        }
        let sum = slot(&mut self.amount_by_payment_method, &payment.payment_method, self.names_max, Money::ZERO);
        *sum = sum.checked_add(payment.amount).ok_or(Overflow)?;
        self.payments_succeeded = self.payments_succeeded.saturating_add(1);
        Ok(())
    }
}

/// The sum under `name`, or under `other` when there is no room for another name.
fn slot<'a, T>(sums: &'a mut BTreeMap<String, T>, name: &str, names_max: usize, zero: T) -> &'a mut T {
    let known = sums.contains_key(name) || sums.len() < names_max;
    sums.entry(if known { name.to_owned() } else { OTHER.to_owned() }).or_insert(zero)
}

#[cfg(test)]
mod tests {
    use millrace_testkit::sample;

    use super::*;

    fn order(id: &str) -> ShopEvent {
        ShopEvent::from_event(&sample::event(id)).unwrap()
    }

    #[test]
    fn orders_add_up_exactly() {
        let mut totals = Totals::new(10);

        for id in ["1", "2", "3"] {
            totals.add(&order(id)).unwrap();
        }

        assert_eq!((totals.revenue.to_string().as_str(), totals.orders, totals.customers()), ("75.0", 3, 1));
        assert_eq!(totals.quantity_by_product.get("p1"), Some(&6));
        assert_eq!(totals.average_order_value(), "25.00".parse().unwrap());
    }

    #[test]
    fn names_beyond_the_bound_are_added_up_together() {
        let mut sums = BTreeMap::new();
        for name in ["a", "b", "c", "d", "a"] {
            *slot(&mut sums, name, 2, 0) += 1;
        }

        assert_eq!(sums, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1), (OTHER.to_owned(), 2)]));
    }
}
