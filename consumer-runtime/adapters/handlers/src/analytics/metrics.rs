//! The sums as metrics.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::analytics::{
    summary::{AnalyticsSource, AnalyticsSummary},
    totals::OTHER,
};

/// The payment methods that are labels of a metric; all others are its label `other`. A metric's labels must not come
/// from events: there is no bound to what they say.
const PAYMENT_METHODS: [&str; 8] =
    ["apple_pay", "bank_transfer", "cash", "credit_card", "debit_card", "gift_card", "google_pay", "paypal"];

/// Registers the sums under the prefix `millrace_analytics`. Customers and products are counted and not named: their
/// number has no bound that a metric could bear.
pub fn register(source: Arc<dyn AnalyticsSource>, registry: &mut Registry) {
    registry.sub_registry_with_prefix("millrace_analytics").register_collector(Box::new(Metrics(source)));
}

struct Metrics(Arc<dyn AnalyticsSource>);

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("analytics")
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let summary = self.0.summary();
        for (name, help, value) in [
            ("orders", "Orders placed", summary.orders),
            ("shipments", "Orders shipped", summary.shipments),
            ("payments_succeeded", "Payments that succeeded", summary.payments_succeeded),
            ("payments_failed", "Payments that failed", summary.payments_failed),
            ("processed", "Events whose processing time is known", summary.processed),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let processing = ConstCounter::new(summary.processing.as_secs_f64());
        let help = "Time from when events happened until they were handled, added up";
        let unit = Some(&Unit::Seconds);
        processing.encode(encoder.encode_descriptor("processing", help, unit, processing.metric_type())?)?;
        let help = "Longest time from when an event happened until it was handled";
        let longest = ConstGauge::new(summary.processing_max.as_secs_f64());
        longest.encode(encoder.encode_descriptor("processing_max", help, unit, longest.metric_type())?)?;
        for (name, help, value) in [
            ("customers", "Customers with an order", summary.customers),
            ("customer_orders_max", "Most orders of one customer", summary.customers_orders_max),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        // A metric's value is a floating-point number; the exact sums are in /status.
        let revenue = ConstGauge::new(approximate(&summary.revenue));
        let kind = revenue.metric_type();
        revenue.encode(encoder.encode_descriptor("revenue", "Sum of all orders", None, kind)?)?;
        let help = "Sum of the successful payments, by method";
        let mut family = encoder.encode_descriptor("payments_amount", help, None, kind)?;
        for (method, amount) in by_known_method(&summary) {
            ConstGauge::new(amount).encode(family.encode_family(&[("method", method)])?)?;
        }
        Ok(())
    }
}

fn approximate(amount: &str) -> f64 {
    amount.parse().unwrap_or_default()
}

/// The amounts by payment method, those of unknown methods together.
fn by_known_method(summary: &AnalyticsSummary) -> BTreeMap<&'static str, f64> {
    let mut sums = BTreeMap::new();
    for (method, amount) in &summary.amount_by_payment_method {
        let known = PAYMENT_METHODS.into_iter().find(|known| known == method).unwrap_or(OTHER);
        *sums.entry(known).or_insert(0.0) += approximate(amount);
    }
    sums
}
