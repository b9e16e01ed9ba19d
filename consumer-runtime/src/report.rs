//! What this process says about itself.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use millrace_config::status::{
    AnalyticsReport, DeliveryGuarantee, Lag, Part, Phase, ProblemReason, StatusProblem, StatusReport, Totals,
};
use millrace_core::{
    health::{self, Health, TroubleReason},
    ports::LagProbe,
};
use millrace_engine::metrics::Metrics;
use millrace_handlers::{AnalyticsHandler, AnalyticsTotals};

use crate::wire::Parts;

/// The time that the broker has for telling the lag.
const LAG_TIMEOUT: Duration = Duration::from_secs(1);

/// Gathers what this process says about itself.
pub(crate) struct Reporter {
    delivery_guarantee: DeliveryGuarantee,
    phase: Mutex<Phase>,
    health: Arc<Health>,
    metrics: Metrics,
    analytics: Option<AnalyticsHandler>,
    lag: OnceLock<Box<dyn LagProbe>>,
}

impl Reporter {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            delivery_guarantee: parts.delivery_guarantee(),
            phase: Mutex::new(Phase::Starting),
            health: Arc::clone(&parts.health),
            metrics: parts.metrics.clone(),
            analytics: parts.analytics.clone(),
            lag: OnceLock::new(),
        }
    }

    /// From now on the lag can be told.
    pub(crate) fn lag_from(&self, probe: Box<dyn LagProbe>) {
        self.lag.get_or_init(|| probe);
    }

    /// The engine runs.
    pub(crate) fn running(&self) {
        self.set(Phase::Running);
    }

    /// The engine drains.
    pub(crate) fn draining(&self) {
        self.set(Phase::Draining);
    }

    /// Why events are not taken now; nothing when they are.
    pub(crate) fn not_ready(&self) -> Option<String> {
        match self.phase() {
            Phase::Draining => Some("draining".to_owned()),
            Phase::Starting | Phase::Running => {
                self.health.troubles().first().map(|(_, trouble)| trouble.message.clone())
            }
        }
    }

    pub(crate) async fn report(&self) -> StatusReport {
        let totals = self.metrics.totals();
        let pending = match self.lag.get() {
            // A broker that does not answer must not keep the report of just that from being read.
            Some(probe) => tokio::time::timeout(LAG_TIMEOUT, probe.pending()).await.ok().flatten(),
            None => None,
        };
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: self.phase(),
            delivery_guarantee: self.delivery_guarantee,
            problems: self.health.troubles().into_iter().map(problem).collect(),
            lag: Lag {
                pending,
                in_flight: totals.in_flight,
                oldest_seconds: Some(totals.oldest_seconds).filter(|seconds| *seconds > 0),
            },
            totals: Totals {
                deliveries: totals.deliveries,
                redeliveries: totals.redeliveries,
                handled: totals.handled,
                duplicates_skipped: totals.duplicates_skipped,
                ignored: totals.ignored,
                retries: totals.retries,
                dead_letters: totals.dead_letters,
                dropped: totals.dropped,
                possible_duplicates: totals.possible_duplicates,
                fenced: totals.fenced,
            },
            analytics: self.analytics.as_ref().map(|analytics| analytics_report(&analytics.totals())),
        }
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

fn problem((part, trouble): (health::Part, health::Trouble)) -> StatusProblem {
    let part = match part {
        health::Part::Broker => Part::Broker,
        health::Part::Store => Part::Store,
        health::Part::Handler => Part::Handler,
        health::Part::Circuit => Part::Circuit,
        health::Part::Intake => Part::Intake,
    };
    let reason = match trouble.reason {
        TroubleReason::Connecting => ProblemReason::Connecting,
        TroubleReason::Unreachable => ProblemReason::Unreachable,
        TroubleReason::Unauthorized => ProblemReason::Unauthorized,
        TroubleReason::SecretMissing => ProblemReason::SecretMissing,
        TroubleReason::SecretInvalid => ProblemReason::SecretInvalid,
        TroubleReason::TlsFailed => ProblemReason::TlsFailed,
        TroubleReason::AddressNotAllowed => ProblemReason::AddressNotAllowed,
        TroubleReason::StreamNotFound => ProblemReason::StreamNotFound,
        TroubleReason::DeadLetterStreamNotFound => ProblemReason::DeadLetterStreamNotFound,
        TroubleReason::DurableConflict => ProblemReason::DurableConflict,
        TroubleReason::BucketConflict => ProblemReason::BucketConflict,
        TroubleReason::Unsupported => ProblemReason::Unsupported,
        TroubleReason::Failing => ProblemReason::Failing,
        TroubleReason::CircuitOpen => ProblemReason::CircuitOpen,
        TroubleReason::Paused => ProblemReason::Paused,
    };
    StatusProblem { part, reason, message: trouble.message }
}

fn analytics_report(totals: &AnalyticsTotals) -> AnalyticsReport {
    let payments = totals.payments_succeeded.saturating_add(totals.payments_failed);
    // In tenths of a percent, rounded down.
    let share = totals.payments_succeeded.saturating_mul(1000).checked_div(payments).unwrap_or_default();
    AnalyticsReport {
        total_revenue: totals.revenue.to_string(),
        orders: totals.orders,
        shipments: totals.shipments,
        customers: totals.customers,
        average_order_value: totals.average_order_value().to_string(),
        payments_succeeded: totals.payments_succeeded,
        payments_failed: totals.payments_failed,
        payment_success_percent: format!("{}.{}", share / 10, share % 10),
        amount_by_payment_method: totals
            .amount_by_payment_method
            .iter()
            .map(|(method, amount)| (method.clone(), amount.to_string()))
            .collect(),
        quantity_by_product: totals.quantity_by_product.clone(),
    }
}
