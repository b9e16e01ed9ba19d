//! What was handled: how often each event.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::orders;

/// How often each event was handled.
pub(crate) struct Ledger {
    events: Vec<AtomicU8>,
    handled: AtomicU64,
}

impl Ledger {
    pub(crate) fn of(events: u64) -> Self {
        let events = (0..events).map(|_| AtomicU8::new(0)).collect();
        Self { events, handled: AtomicU64::new(0) }
    }

    /// An event was handled. How many were before.
    pub(crate) fn note(&self, id: &str) -> u64 {
        if let Some(times) = self.events.get(orders::number(id)) {
            times.fetch_add(1, Ordering::Relaxed);
        }
        self.handled.fetch_add(1, Ordering::Relaxed)
    }

    /// Events that were not handled.
    pub(crate) fn missing(&self) -> u64 {
        self.count(|times| times == 0)
    }

    /// Events that were handled more than once.
    pub(crate) fn doubled(&self) -> u64 {
        self.count(|times| times > 1)
    }

    fn count(&self, which: impl Fn(u8) -> bool) -> u64 {
        self.events.iter().filter(|times| which(times.load(Ordering::Relaxed))).count() as u64
    }
}
