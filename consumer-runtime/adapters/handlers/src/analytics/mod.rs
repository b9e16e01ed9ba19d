//! The `analytics` handler: sums over the shop's events, in memory.

mod totals;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::{Event, Money, Reason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

pub use self::totals::{AnalyticsLimits, Totals};
use self::totals::{Ledger, OTHER};
use crate::shop_event;

/// The payment methods that are labels of a metric; all others are its label `other`. A metric's labels must not come
/// from events: there is no bound to what they say.
const PAYMENT_METHODS: [&str; 8] =
    ["apple_pay", "bank_transfer", "cash", "credit_card", "debit_card", "gift_card", "google_pay", "paypal"];

/// Adds up the shop's events in memory. Exact under redelivery, because the engine calls it once for each event.
///
/// Cheap to clone; clones add up together.
#[derive(Clone, Debug)]
pub struct AnalyticsHandler {
    ledger: Arc<Mutex<Ledger>>,
}

impl AnalyticsHandler {
    /// A handler that has seen nothing yet.
    pub fn new(limits: AnalyticsLimits) -> Self {
        Self { ledger: Arc::new(Mutex::new(Ledger::new(limits))) }
    }

    /// The totals so far.
    pub fn totals(&self) -> Totals {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).totals.clone()
    }

    /// Registers the totals under the prefix `millrace_analytics`. Customers and products are counted and not named:
    /// their number has no bound that a metric could bear.
    pub fn register(&self, registry: &mut Registry) {
        registry.sub_registry_with_prefix("millrace_analytics").register_collector(Box::new(self.clone()));
    }
}

#[async_trait]
impl Handler for AnalyticsHandler {
    async fn call(&self, event: &Event, _context: &Context<'_>) -> Outcome {
        let shop_event = match shop_event(event) {
            Ok(shop_event) => shop_event,
            Err(outcome) => return outcome,
        };
        match self.ledger.lock().unwrap_or_else(PoisonError::into_inner).add(&shop_event) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::permanent(Reason::InvalidData, error.to_string()),
        }
    }

    async fn check(&self) -> Result<(), Trouble> {
        Ok(())
    }
}

impl Collector for AnalyticsHandler {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let totals = self.totals();
        for (name, help, value) in [
            ("orders", "Orders placed", totals.orders),
            ("shipments", "Orders shipped", totals.shipments),
            ("payments_succeeded", "Payments that succeeded", totals.payments_succeeded),
            ("payments_failed", "Payments that failed", totals.payments_failed),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let customers = i64::try_from(totals.customers).unwrap_or(i64::MAX);
        let customers = ConstGauge::new(customers);
        let kind = customers.metric_type();
        customers.encode(encoder.encode_descriptor("customers", "Customers with an order", None, kind)?)?;
        // A metric's value is a floating-point number; the exact sums are in /status.
        let revenue = ConstGauge::new(approximate(totals.revenue));
        let kind = revenue.metric_type();
        revenue.encode(encoder.encode_descriptor("revenue", "Sum of all orders", None, kind)?)?;
        let help = "Sum of the successful payments, by method";
        let mut family = encoder.encode_descriptor("payments_amount", help, None, kind)?;
        for (method, amount) in by_known_method(&totals) {
            ConstGauge::new(approximate(amount)).encode(family.encode_family(&[("method", method)])?)?;
        }
        Ok(())
    }
}

fn approximate(amount: Money) -> f64 {
    amount.to_string().parse().unwrap_or_default()
}

/// The amounts by payment method, those of unknown methods together.
fn by_known_method(totals: &Totals) -> BTreeMap<&'static str, Money> {
    let mut sums = BTreeMap::new();
    for (method, amount) in &totals.amount_by_payment_method {
        let known = PAYMENT_METHODS.into_iter().find(|known| known == method).unwrap_or(OTHER);
        let sum = sums.entry(known).or_insert(Money::ZERO);
        // The sum of sums may have too many digits: then the metric stays behind, which no one can see in a float.
        *sum = sum.checked_add(*amount).unwrap_or(*sum);
    }
    sums
}

#[cfg(test)]
mod tests {
    use millrace_testkit::sample;
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[tokio::test]
    async fn the_metrics_name_known_payment_methods_and_nothing_else_that_an_event_says() {
        let handler =
            AnalyticsHandler::new(AnalyticsLimits { customers_max: 10, products_max: 10, payment_methods_max: 10 });
        let mut registry = Registry::default();
        handler.register(&mut registry);
        for (id, method) in [("1", "paypal"), ("2", "eve-1"), ("3", "eve-2")] {
            let event = payment(id, method);
            assert_eq!(handler.call(&event, &Context { attempt: 1, hold: None }).await, Outcome::Done);
        }

        let mut text = String::new();
        encode(&mut text, &registry).unwrap();

        for line in [
            "millrace_analytics_payments_succeeded_total 3",
            "millrace_analytics_payments_amount{method=\"paypal\"} 12.5",
            "millrace_analytics_payments_amount{method=\"other\"} 25.0",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("eve-"), "{text}");
    }

    fn payment(id: &str, method: &str) -> Event {
        let body = format!(
            r#"{{"event_id":"{id}","event_type":"PaymentProcessed","timestamp":"2026-01-02T03:04:05Z","version":1,
            "order_id":"o","payment_id":"p","amount":12.50,"payment_method":"{method}","status":"SUCCESS"}}"#
        );
        sample::decode("payments.processed", body)
    }
}
