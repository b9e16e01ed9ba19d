//! What this process says about itself.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use millrace_config::status::{
    AnalyticsReport, DeliveryGuarantee, Lag, NoteReason, Part, Phase, ProblemReason, StatusNote, StatusProblem,
    StatusReport, Totals,
};
use millrace_core::{
    health::{self, Health, TroubleReason},
    ports::{LagProbe, Letters},
};
use millrace_engine::metrics::Metrics;
use millrace_handlers::{AnalyticsSource, AnalyticsSummary};

use crate::{redrive::Progress, wire::Parts};

/// The time that the broker has for telling the lag.
const LAG_TIMEOUT: Duration = Duration::from_secs(1);

/// The time that the sums of `analytics` have for being read.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(1);

/// Gathers what this process says about itself.
pub(crate) struct Reporter {
    delivery_guarantee: DeliveryGuarantee,
    phase: Mutex<Phase>,
    health: Arc<Health>,
    metrics: Metrics,
    analytics: Option<Arc<dyn AnalyticsSource>>,
    lag: OnceLock<Box<dyn LagProbe>>,
    replay: OnceLock<Arc<Progress>>,
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
            replay: OnceLock::new(),
        }
    }

    /// From now on the lag can be told.
    pub(crate) fn lag_from(&self, probe: Box<dyn LagProbe>) {
        self.lag.get_or_init(|| probe);
    }

    /// This process is a redrive, and this is how far it is.
    pub(crate) fn replay_from(&self, progress: Arc<Progress>) {
        self.replay.get_or_init(|| progress);
    }

    /// The engine runs.
    pub(crate) fn running(&self) {
        self.set(Phase::Running);
    }

    /// Everything is connected, and nothing is taken.
    pub(crate) fn paused(&self) {
        self.set(Phase::Paused);
    }

    /// The engine drains.
    pub(crate) fn draining(&self) {
        self.set(Phase::Draining);
    }

    /// Why events are not taken now; nothing when they are.
    pub(crate) fn not_ready(&self) -> Option<String> {
        match self.phase() {
            Phase::Draining => Some("draining".to_owned()),
            Phase::Starting | Phase::Running | Phase::Paused => {
                self.health.troubles().first().map(|(_, trouble)| trouble.message.clone())
            }
        }
    }

    /// Brings up to date what is not by itself. What does not answer in time is shown as it was.
    pub(crate) async fn refresh(&self) {
        if let Some(analytics) = &self.analytics {
            drop(tokio::time::timeout(REFRESH_TIMEOUT, analytics.refresh()).await);
        }
    }

    pub(crate) async fn report(&self) -> StatusReport {
        self.refresh().await;
        let totals = self.metrics.totals();
        let (pending, letters) = self.ask_broker().await;
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            phase: self.phase(),
            delivery_guarantee: self.delivery_guarantee,
            problems: self.health.troubles().into_iter().map(problem).collect(),
            lag: Lag {
                pending,
                in_flight: totals.in_flight,
                oldest_seconds: Some(totals.oldest_seconds).filter(|seconds| *seconds > 0),
                is_share: self.lag.get().is_some_and(|probe| probe.is_share()),
                partitions: self.lag.get().and_then(|probe| u32::try_from(probe.lanes()?).ok()),
                dead_letters: letters.map(|letters| letters.count),
                last_dead_letter: letters.and_then(|letters| letters.last),
            },
            notes: self.health.notes().into_iter().map(note).collect(),
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
            analytics: self.analytics.as_ref().map(|analytics| analytics_report(analytics.summary())),
            replay: self.replay.get().map(|progress| progress.report()),
        }
    }

    /// What waits at the broker, and the dead letters. A broker that does not answer must not keep the report of just
    /// that from being read.
    async fn ask_broker(&self) -> (Option<u64>, Option<Letters>) {
        let Some(probe) = self.lag.get() else { return (None, None) };
        tokio::join!(async { tokio::time::timeout(LAG_TIMEOUT, probe.pending()).await.ok().flatten() }, async {
            tokio::time::timeout(LAG_TIMEOUT, probe.dead_letters()).await.ok().flatten()
        },)
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
        TroubleReason::TopicNotFound => ProblemReason::TopicNotFound,
        TroubleReason::StreamNotFound => ProblemReason::StreamNotFound,
        TroubleReason::DeadLetterStreamNotFound => ProblemReason::DeadLetterStreamNotFound,
        TroubleReason::DurableConflict => ProblemReason::DurableConflict,
        TroubleReason::BucketConflict => ProblemReason::BucketConflict,
        TroubleReason::Unsupported => ProblemReason::Unsupported,
        TroubleReason::SchemaConflict => ProblemReason::SchemaConflict,
        TroubleReason::StoreUnsafe => ProblemReason::StoreUnsafe,
        TroubleReason::Failing => ProblemReason::Failing,
        TroubleReason::CircuitOpen => ProblemReason::CircuitOpen,
        TroubleReason::Paused => ProblemReason::Paused,
    };
    StatusProblem { part, reason, message: trouble.message }
}

fn note((reason, message): (health::NoteReason, String)) -> StatusNote {
    let reason = match reason {
        health::NoteReason::RetentionTooShort => NoteReason::RetentionTooShort,
        health::NoteReason::StoreNotDurable => NoteReason::StoreNotDurable,
    };
    StatusNote { reason, message }
}

fn analytics_report(summary: AnalyticsSummary) -> AnalyticsReport {
    AnalyticsReport {
        orders_per_customer: summary.orders_per_customer(),
        payment_success_percent: summary.payment_success_percent(),
        processing_milliseconds_mean: milliseconds(summary.processing_mean()),
        processing_milliseconds_max: milliseconds(summary.processing_max),
        total_revenue: summary.revenue,
        orders: summary.orders,
        shipments: summary.shipments,
        customers: summary.customers,
        orders_per_customer_max: summary.customers_orders_max,
        average_order_value: summary.average_order_value,
        payments_succeeded: summary.payments_succeeded,
        payments_failed: summary.payments_failed,
        amount_by_payment_method: summary.amount_by_payment_method,
        processed: summary.processed,
        quantity_by_product: summary.quantity_by_product,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
