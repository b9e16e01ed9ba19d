//! Logs and figures of the operator.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Starts logging JSON lines to stderr. The environment's `LOG_LEVEL` is a tracing filter; default `info`.
pub fn init() {
    let filter = std::env::var("LOG_LEVEL").ok().and_then(|level| level.parse::<Targets>().ok());
    tracing_subscriber::registry()
        .with(filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO)))
        .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
        .init();
}

/// Figures of the operator, and its sign of life. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<ResultLabel, Counter>,
    errors: Family<CategoryLabel, Counter>,
    seconds: Histogram,
    /// When each watch was last answered, in seconds.
    signs: Arc<Mutex<BTreeMap<Arc<str>, i64>>>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CategoryLabel {
    category: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            errors: Family::default(),
            seconds: Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0]),
            signs: Arc::default(),
        }
    }
}

impl Metrics {
    /// Registers all figures under the prefix `millrace_operator`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("millrace_operator");
        registry.register("reconcile", "Reconciles, by result", self.reconciles.clone());
        registry.register("reconcile_errors", "Failed reconciles, by category", self.errors.clone());
        registry.register("reconcile_duration_seconds", "Duration of a reconcile in seconds", self.seconds.clone());
    }

    /// A reconcile has ended.
    pub fn reconciled(&self, error: Option<&'static str>, duration: Duration) {
        let result = if error.is_some() { "error" } else { "success" };
        self.reconciles.get_or_create_owned(&ResultLabel { result }).inc();
        if let Some(category) = error {
            self.errors.get_or_create_owned(&CategoryLabel { category }).inc();
        }
        self.seconds.observe(duration.as_secs_f64());
    }

    /// Reconciles that have ended, however they did.
    pub fn reconciles(&self) -> u64 {
        ["success", "error"]
            .map(|result| self.reconciles.get_or_create_owned(&ResultLabel { result }).get())
            .iter()
            .sum()
    }

    /// The API server has answered a watch.
    pub fn alive(&self, watch: &Arc<str>) {
        self.signs().insert(Arc::clone(watch), Timestamp::now().as_second());
    }

    /// The watch that has had no answer for longest, and for how many seconds; nothing before the first one has begun.
    pub fn most_silent(&self) -> Option<(Arc<str>, i64)> {
        let oldest = self.signs().iter().map(|(watch, sign)| (*sign, Arc::clone(watch))).min();
        oldest.map(|(sign, watch)| (watch, Timestamp::now().as_second().saturating_sub(sign)))
    }

    fn signs(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, i64>> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
