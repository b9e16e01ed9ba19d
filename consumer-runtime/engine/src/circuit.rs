//! The circuit breaker at work: while it is open nothing is fetched and no attempt is spent.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millrace_core::{
    breaker::{Admission, Breaker, Change},
    health::{Health, Part, Trouble, TroubleReason},
    outcome::Outcome,
};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::{gate::Gate, metrics::Metrics, shared::Shared};

/// When the circuit breaker opens, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CircuitPolicy {
    /// Different events that fail in a row before it opens.
    pub consecutive_failures: u32,
    /// The time that it stays open before an attempt may probe.
    pub open: Duration,
}

/// The circuit breaker of one engine; without a policy it is always closed.
pub(crate) struct Circuit {
    breaker: Option<(Mutex<Breaker>, Duration)>,
    /// Shut while nothing is to be fetched. Set within the lock of the breaker, so that it is as the last change left it.
    pub(crate) gate: Gate,
    opened: Notify,
    health: Arc<Health>,
    metrics: Metrics,
}

impl Circuit {
    pub(crate) fn new(policy: Option<CircuitPolicy>, health: Arc<Health>, metrics: Metrics) -> Self {
        let breaker = policy.map(|policy| (Mutex::new(Breaker::new(policy.consecutive_failures)), policy.open));
        Self { breaker, gate: Gate::open(), opened: Notify::new(), health, metrics }
    }

    /// Leave to start an attempt; nothing while the circuit is open.
    pub(crate) fn admit(&self) -> Option<Leave<'_>> {
        let admission = match self.breaker() {
            Some(mut breaker) => breaker.admit()?,
            None => Admission::Normal,
        };
        Some(Leave { circuit: self, admission, ended: false })
    }

    /// Whether deliveries are to be fetched one by one, because each may be the probe.
    pub(crate) fn is_probing(&self) -> bool {
        self.breaker().is_some_and(|breaker| !breaker.is_closed())
    }

    /// A delivery was fetched. While probing it is the only one, until it is known what became of it.
    pub(crate) fn fetched(&self) {
        if let Some(breaker) = self.breaker()
            && !breaker.is_closed()
        {
            self.gate.set(false);
        }
    }

    /// A delivery has ended. If the probe is still missing, the next may be it.
    pub(crate) fn delivery_ended(&self) {
        if let Some(breaker) = self.breaker()
            && breaker.wants_probe()
        {
            self.gate.set(true);
        }
    }

    /// An attempt ended, or did not start. Whether it is spent: what fails at an open circuit costs nothing.
    fn attempt_ended(&self, admission: Admission, event: &str, outcome: Option<&Outcome>) -> bool {
        let Some(mut breaker) = self.breaker() else { return true };
        let change = breaker.ended(admission, event, outcome);
        match change {
            Change::None => {}
            Change::Opened => self.open(),
            Change::Closed => {
                info!("the circuit is closed again");
                self.metrics.circuit_open.set(0);
                self.health.works(Part::Circuit);
                self.gate.set(true);
            }
        }
        breaker.is_closed()
    }

    /// Lets a probe through, if the circuit is open.
    pub(crate) fn probe(&self) {
        let Some(mut breaker) = self.breaker() else { return };
        breaker.probe();
        if breaker.wants_probe() {
            self.gate.set(true);
        }
    }

    fn open(&self) {
        self.gate.set(false);
        self.metrics.circuit_openings.inc();
        self.metrics.circuit_open.set(1);
        let message = "the handler fails for every event: fetching stops, and one event at a time tries again; see the runtime's log for the errors";
        if self.health.fails(Part::Circuit, Trouble::new(TroubleReason::CircuitOpen, message)) {
            warn!("the handler fails for every event: the circuit is open");
        }
        self.opened.notify_one();
    }

    fn breaker(&self) -> Option<MutexGuard<'_, Breaker>> {
        self.breaker.as_ref().map(|(breaker, _)| breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Leave to start one attempt. Dropped without an outcome it says that none started.
pub(crate) struct Leave<'circuit> {
    circuit: &'circuit Circuit,
    admission: Admission,
    ended: bool,
}

impl Leave<'_> {
    /// The attempt ended. Whether it is spent.
    pub(crate) fn end(mut self, event: &str, outcome: &Outcome) -> bool {
        self.ended = true;
        self.circuit.attempt_ended(self.admission, event, Some(outcome))
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.circuit.attempt_ended(self.admission, "", None);
        }
    }
}

/// Lets probes through when the circuit has been open for its time. For as long as it runs.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let Some((_, open)) = &shared.circuit.breaker else { return std::future::pending().await };
    loop {
        shared.circuit.opened.notified().await;
        tokio::time::sleep(*open).await;
        shared.circuit.probe();
    }
}
