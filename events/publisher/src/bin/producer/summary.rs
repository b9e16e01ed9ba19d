//! What was published, and the sums that a consumer must come to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use millrace_events::{Money, PaymentStatus, ShopEvent};
use serde::Serialize;

use crate::generate::Message;

/// What was published. Sums count each event once.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) published: u64,
    pub(crate) unique: u64,
    pub(crate) duplicates: u64,
    pub(crate) poison: u64,
    pub(crate) poison_by_reason: BTreeMap<&'static str, u64>,
    pub(crate) orders: u64,
    pub(crate) shipments: u64,
    pub(crate) payments_succeeded: u64,
    pub(crate) payments_failed: u64,
    /// E-mails that the `email` handler must send.
    pub(crate) emails: u64,
    pub(crate) total_revenue: Money,
    pub(crate) amount_by_payment_method: BTreeMap<String, Money>,
    pub(crate) quantity_by_product: BTreeMap<String, u64>,
    pub(crate) customers: u64,
    pub(crate) seconds: f64,
    #[serde(skip)]
    seen_customers: BTreeSet<String>,
}

impl Summary {
    /// The summary for programs.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("the keys of a summary are text")
    }

    /// Counts a message that the broker has confirmed.
    pub(crate) fn add(&mut self, message: &Message) {
        self.published += 1;
        match message {
            Message::Duplicate(_) => self.duplicates += 1,
            Message::Poison(kind, _) => {
                self.poison += 1;
                *self.poison_by_reason.entry(kind.reason().as_str()).or_default() += 1;
            }
            Message::New(valid) => {
                self.unique += 1;
                self.add_event(&valid.shop_event);
            }
        }
    }

    fn add_event(&mut self, event: &ShopEvent) {
        match event {
            ShopEvent::OrderPlaced(order) => {
                self.orders += 1;
                self.emails += 1;
                add(&mut self.total_revenue, order.total_amount);
                self.seen_customers.insert(order.customer_id.clone());
                self.customers = self.seen_customers.len().try_into().unwrap_or(u64::MAX);
                for item in &order.items {
                    *self.quantity_by_product.entry(item.product_id.clone()).or_default() += u64::from(item.quantity);
                }
            }
            ShopEvent::OrderShipped(_) => {
                self.shipments += 1;
                self.emails += 1;
            }
            ShopEvent::PaymentProcessed(payment) => match payment.status {
                PaymentStatus::Success => {
                    self.payments_succeeded += 1;
                    let method = self.amount_by_payment_method.entry(payment.payment_method.clone());
                    add(method.or_insert(Money::ZERO), payment.amount);
                }
                PaymentStatus::Failed => {
                    self.payments_failed += 1;
                    self.emails += 1;
                }
            },
        }
    }
}

fn add(sum: &mut Money, amount: Money) {
    *sum = sum.checked_add(amount).expect("generated amounts are far from 28 digits");
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("published", self.published.to_string()),
            ("  unique events", self.unique.to_string()),
            ("  duplicates", self.duplicates.to_string()),
            ("  poison", self.poison.to_string()),
            ("orders", self.orders.to_string()),
            ("shipments", self.shipments.to_string()),
            ("payments succeeded", self.payments_succeeded.to_string()),
            ("payments failed", self.payments_failed.to_string()),
            ("revenue", self.total_revenue.to_string()),
        ];
        for (name, value) in rows {
            writeln!(formatter, "{name:<20} {value:>14}")?;
        }
        writeln!(
            formatter,
            "producer: published={} unique={} duplicates={} poison={} seconds={:.1}",
            self.published, self.unique, self.duplicates, self.poison, self.seconds
        )
    }
}
