//! The `analytics` handler: sums over the shop's events, in memory.

mod totals;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::{Event, Reason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

pub use self::totals::Totals;
use crate::shop_event;

/// Adds up the shop's events in memory. Exact under redelivery, because the engine calls it once for each event.
///
/// Cheap to clone; clones add up together.
#[derive(Clone, Debug)]
pub struct AnalyticsHandler {
    totals: Arc<Mutex<Totals>>,
}

impl AnalyticsHandler {
    /// A handler that tells at most `names_max` customers, products and payment methods apart. What comes after that
    /// counts in the sums and under the name `other`.
    pub fn new(names_max: usize) -> Self {
        Self { totals: Arc::new(Mutex::new(Totals::new(names_max))) }
    }

    /// The totals so far.
    pub fn totals(&self) -> Totals {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registers the totals under the prefix `millrace_analytics`. Customers and products are counted and not named:
    /// their number has no bound that a metric could bear.
    pub fn register(&self, registry: &mut Registry) {
        registry.sub_registry_with_prefix("millrace_analytics").register_collector(Box::new(self.clone()));
    }
}

#[async_trait]
impl Handler for AnalyticsHandler {
    async fn call(&self, event: &Event, _context: &Context) -> Outcome {
        let shop_event = match shop_event(event) {
            Ok(shop_event) => shop_event,
            Err(outcome) => return outcome,
        };
        match self.totals.lock().unwrap_or_else(PoisonError::into_inner).add(&shop_event) {
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
        // A metric's value is a floating-point number; the exact sum is in /status.
        let revenue = ConstGauge::new(totals.revenue.to_string().parse::<f64>().unwrap_or_default());
        revenue.encode(encoder.encode_descriptor("revenue", "Sum of all orders", None, revenue.metric_type())?)?;
        let customers = ConstGauge::new(i64::try_from(totals.customers()).unwrap_or(i64::MAX));
        customers.encode(encoder.encode_descriptor(
            "customers",
            "Customers with an order",
            None,
            customers.metric_type(),
        )?)
    }
}
