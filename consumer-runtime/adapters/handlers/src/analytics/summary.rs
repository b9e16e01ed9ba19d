//! What is shown of the sums, wherever they are kept.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

/// Where the sums of an `analytics` handler can be seen.
#[async_trait]
pub trait AnalyticsSource: Send + Sync {
    /// Brings the summary up to date, where it is not by itself.
    async fn refresh(&self);

    /// The summary, as it was last known.
    fn summary(&self) -> AnalyticsSummary;
}

/// What is shown of the sums. Amounts are exact decimals.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AnalyticsSummary {
    /// Sum of the total amounts of all orders.
    pub revenue: String,
    /// Orders placed.
    pub orders: u64,
    /// Orders shipped.
    pub shipments: u64,
    /// Customers with an order that are counted.
    pub customers: u64,
    /// Orders of these customers.
    pub customers_orders: u64,
    /// Most orders of one of them.
    pub customers_orders_max: u64,
    /// Revenue divided by orders, rounded to cents; zero before the first order.
    pub average_order_value: String,
    /// Payments that succeeded.
    pub payments_succeeded: u64,
    /// Payments that failed.
    pub payments_failed: u64,
    /// Events handled.
    pub processed: u64,
    /// The time from when each happened until it was handled, added up.
    pub processing: Duration,
    /// The longest such time.
    pub processing_max: Duration,
    /// Amount of the successful payments by method.
    pub amount_by_payment_method: BTreeMap<String, String>,
    /// Items sold by product.
    pub quantity_by_product: BTreeMap<String, u64>,
}

impl AnalyticsSummary {
    /// Orders of a customer on average, with two decimals, rounded down; zero before the first.
    pub fn orders_per_customer(&self) -> String {
        let hundredths = self.customers_orders.saturating_mul(100).checked_div(self.customers).unwrap_or_default();
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    }

    /// Share of payments that succeeded, in percent with one decimal, rounded down.
    pub fn payment_success_percent(&self) -> String {
        let payments = self.payments_succeeded.saturating_add(self.payments_failed);
        let tenths = self.payments_succeeded.saturating_mul(1000).checked_div(payments).unwrap_or_default();
        format!("{}.{}", tenths / 10, tenths % 10)
    }

    /// Mean time from when an event happened until it was handled; zero before the first.
    pub fn processing_mean(&self) -> Duration {
        let nanoseconds = self.processing.as_nanos().checked_div(u128::from(self.processed)).unwrap_or_default();
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}
