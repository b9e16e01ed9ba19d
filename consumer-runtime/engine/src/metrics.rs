//! The figures of the engine. Their label sets are bounded.

use millrace_events::Reason;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// The figures of one engine. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) deliveries: Counter,
    pub(crate) redeliveries: Counter,
    pub(crate) dropped_copies: Counter,
    pub(crate) handled: Counter,
    pub(crate) duplicates_skipped: Counter,
    pub(crate) ignored: Counter,
    pub(crate) retries: Counter,
    pub(crate) busy: Counter,
    pub(crate) dead_letters: Family<ReasonLabel, Counter>,
    pub(crate) dropped: Family<ReasonLabel, Counter>,
    pub(crate) possible_duplicates: Counter,
    pub(crate) fenced: Counter,
    pub(crate) unconfirmed_settlements: Counter,
    pub(crate) handed_back: Counter,
    pub(crate) taken_back: Counter,
    pub(crate) lost: Counter,
    pub(crate) circuit_openings: Counter,
    pub(crate) circuit_open: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) window: Gauge,
    pub(crate) oldest_seconds: Gauge,
    pub(crate) attempt_seconds: Histogram,
    store_seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
    /// Of that family, so that no event looks them up.
    pub(crate) claim_seconds: Histogram,
    pub(crate) end_seconds: Histogram,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct OperationLabel {
    pub(crate) operation: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: &'static str,
}

/// Totals since the engine started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Deliveries taken from the broker.
    pub deliveries: u64,
    /// Deliveries that the broker says it had made before.
    pub redeliveries: u64,
    /// Events whose handler succeeded.
    pub handled: u64,
    /// Deliveries of events that were done already.
    pub duplicates_skipped: u64,
    /// Deliveries of types that the consumer leaves alone.
    pub ignored: u64,
    /// Attempts that failed and will be repeated.
    pub retries: u64,
    /// Dead letters confirmed by the broker.
    pub dead_letters: u64,
    /// Events given up and dropped.
    pub dropped: u64,
    /// Attempts after one whose effect may have happened.
    pub possible_duplicates: u64,
    /// Records refused because somebody else had taken the claim over.
    pub fenced: u64,
    /// Deliveries held now.
    pub in_flight: u64,
    /// Age in seconds of the oldest of them.
    pub oldest_seconds: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let store_seconds = Family::<OperationLabel, Histogram, fn() -> Histogram>::new_with_constructor(seconds);
        let of_store = |operation| store_seconds.get_or_create_owned(&OperationLabel { operation });
        Self {
            claim_seconds: of_store("claim"),
            end_seconds: of_store("end"),
            deliveries: Counter::default(),
            redeliveries: Counter::default(),
            dropped_copies: Counter::default(),
            handled: Counter::default(),
            duplicates_skipped: Counter::default(),
            ignored: Counter::default(),
            retries: Counter::default(),
            busy: Counter::default(),
            dead_letters: Family::default(),
            dropped: Family::default(),
            possible_duplicates: Counter::default(),
            fenced: Counter::default(),
            unconfirmed_settlements: Counter::default(),
            handed_back: Counter::default(),
            taken_back: Counter::default(),
            lost: Counter::default(),
            circuit_openings: Counter::default(),
            circuit_open: Gauge::default(),
            in_flight: Gauge::default(),
            window: Gauge::default(),
            oldest_seconds: Gauge::default(),
            attempt_seconds: seconds(),
            store_seconds,
        }
    }
}

impl Metrics {
    /// Registers all figures under the prefix `millrace`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("millrace");
        for (name, help, counter) in [
            ("deliveries", "Deliveries taken from the broker", &self.deliveries),
            ("redeliveries", "Deliveries that the broker had made before", &self.redeliveries),
            (
                "dropped_copies",
                "Deliveries dropped because this process had them at work already",
                &self.dropped_copies,
            ),
            ("handled", "Events whose handler succeeded", &self.handled),
            ("duplicates_skipped", "Deliveries of events that were done already", &self.duplicates_skipped),
            ("ignored", "Deliveries of types that this consumer leaves alone", &self.ignored),
            ("retries", "Attempts that failed and will be repeated", &self.retries),
            ("busy", "Deliveries put off because another process had the event at work", &self.busy),
            ("possible_duplicates", "Attempts after one whose effect may have happened", &self.possible_duplicates),
            ("fenced", "Records refused because another process had taken the claim over", &self.fenced),
            ("unconfirmed_settlements", "Settlements that the broker did not confirm", &self.unconfirmed_settlements),
            ("handed_back", "Deliveries handed back unstarted at a drain", &self.handed_back),
            ("taken_back", "Deliveries left to another process because the broker took them back", &self.taken_back),
            ("circuit_openings", "Times that the circuit breaker has opened", &self.circuit_openings),
            ("lost", "Deliveries dropped for want of room or at a drain that will not come again", &self.lost),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register("dead_letters", "Dead letters confirmed by the broker, by reason", self.dead_letters.clone());
        registry.register("dropped", "Events given up and dropped, by reason", self.dropped.clone());
        registry.register("circuit_open", "1 while the circuit breaker is open", self.circuit_open.clone());
        registry.register("in_flight", "Deliveries taken and not yet settled", self.in_flight.clone());
        registry.register("window", "Deliveries that may be in flight at present", self.window.clone());
        registry.register(
            "oldest_seconds",
            "Age in seconds of the oldest delivery taken and not yet settled; 0 without one",
            self.oldest_seconds.clone(),
        );
        registry.register(
            "store_seconds",
            "Duration of a request to the store in seconds, by operation; what is answered at once is none",
            self.store_seconds.clone(),
        );
        registry.register("attempt_seconds", "Duration of an attempt in seconds", self.attempt_seconds.clone());
    }

    /// The totals so far.
    pub fn totals(&self) -> Totals {
        Totals {
            deliveries: self.deliveries.get(),
            redeliveries: self.redeliveries.get(),
            handled: self.handled.get(),
            duplicates_skipped: self.duplicates_skipped.get(),
            ignored: self.ignored.get(),
            retries: self.retries.get(),
            dead_letters: sum(&self.dead_letters),
            dropped: sum(&self.dropped),
            possible_duplicates: self.possible_duplicates.get(),
            fenced: self.fenced.get(),
            in_flight: u64::try_from(self.in_flight.get()).unwrap_or_default(),
            oldest_seconds: u64::try_from(self.oldest_seconds.get()).unwrap_or_default(),
        }
    }

    pub(crate) fn dead_letter(&self, reason: Reason) -> Counter {
        counter(&self.dead_letters, reason)
    }

    pub(crate) fn dropped(&self, reason: Reason) -> Counter {
        counter(&self.dropped, reason)
    }
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0])
}

fn counter(family: &Family<ReasonLabel, Counter>, reason: Reason) -> Counter {
    family.get_or_create_owned(&ReasonLabel { reason: reason.as_str() })
}

fn sum(family: &Family<ReasonLabel, Counter>) -> u64 {
    Reason::ALL.iter().map(|reason| counter(family, *reason).get()).sum()
}
