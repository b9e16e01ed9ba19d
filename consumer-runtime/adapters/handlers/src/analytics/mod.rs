//! The `analytics` handler: sums over the shop's events, in memory or in PostgreSQL.

mod metrics;
mod postgres;
mod summary;
mod totals;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
    time::Clock,
};
use millrace_events::{Event, Reason};

use self::totals::Ledger;
pub use self::{
    metrics::register,
    postgres::PostgresAnalyticsHandler,
    summary::{AnalyticsSource, AnalyticsSummary},
    totals::AnalyticsLimits,
};
use crate::shop_event;

/// Adds up the shop's events in memory. Exact under redelivery, because the engine calls it once for each event.
///
/// Cheap to clone; clones add up together.
#[derive(Clone)]
pub struct AnalyticsHandler {
    ledger: Arc<Mutex<Ledger>>,
    clock: Arc<dyn Clock>,
}

impl AnalyticsHandler {
    /// A handler that has seen nothing yet. The clock is for the processing time.
    pub fn new(limits: AnalyticsLimits, clock: Arc<dyn Clock>) -> Self {
        Self { ledger: Arc::new(Mutex::new(Ledger::new(limits))), clock }
    }
}

#[async_trait]
impl Handler for AnalyticsHandler {
    async fn call(&self, event: &Event, _context: &Context<'_>) -> Outcome {
        let shop_event = match shop_event(event) {
            Ok(shop_event) => shop_event,
            Err(outcome) => return outcome,
        };
        // A clock that is behind that of the publisher makes no negative time.
        let processing = self.clock.wall().duration_since(shop_event.meta().timestamp);
        let processing = Duration::try_from(processing).unwrap_or_default();
        match self.ledger.lock().unwrap_or_else(PoisonError::into_inner).add(&shop_event, processing) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::permanent(Reason::InvalidData, error.to_string()),
        }
    }

    async fn check(&self) -> Result<(), Trouble> {
        Ok(())
    }
}

#[async_trait]
impl AnalyticsSource for AnalyticsHandler {
    async fn refresh(&self) {}

    fn summary(&self) -> AnalyticsSummary {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).totals.summary()
    }
}

#[cfg(test)]
mod tests {
    use millrace_testkit::{clock::ManualClock, sample};
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    #[tokio::test]
    async fn the_metrics_name_known_payment_methods_and_nothing_else_that_an_event_says() {
        let limits = AnalyticsLimits { customers_max: 10, products_max: 10, payment_methods_max: 10 };
        let handler = AnalyticsHandler::new(limits, Arc::new(ManualClock::default()));
        let mut registry = Registry::default();
        register(Arc::new(handler.clone()), &mut registry);
        for (id, method) in [("1", "paypal"), ("2", "eve-1"), ("3", "eve-2")] {
            let event = payment(id, method);
            assert_eq!(handler.call(&event, &Context { attempt: 1, hold: None, trace: None }).await, Outcome::Done);
        }

        let mut text = String::new();
        encode(&mut text, &registry).unwrap();

        for line in [
            "millrace_analytics_payments_succeeded_total 3",
            "millrace_analytics_processed_total 3",
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
