//! A handler that keeps a ledger of its effects, and fails as it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use millrace_core::{
    health::{Trouble, TroubleReason},
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::Event;

/// A handler that keeps a ledger of its effects. The ledger is append-only, so that it shows a repeated effect.
#[derive(Debug, Default)]
pub struct LedgerHandler {
    effects: Mutex<Vec<String>>,
    script: Mutex<BTreeMap<String, VecDeque<Step>>>,
    attempts: AtomicU32,
    outage: AtomicBool,
    failing: AtomicBool,
    /// How long each call takes before it has its effect.
    pub delay: Mutex<Duration>,
}

/// What one call does instead of its effect.
#[derive(Clone, Debug)]
pub enum Step {
    /// Ends with this outcome.
    End(Outcome),
    /// Panics.
    Panic,
    /// Never ends.
    Hang,
}

impl LedgerHandler {
    /// Scripts the next calls for the event with this id. After them the calls succeed.
    pub fn script(&self, id: &str, steps: impl IntoIterator<Item = Step>) {
        self.script.lock().unwrap().insert(id.to_owned(), steps.into_iter().collect());
    }

    /// Begins or ends an outage, in which every call fails for now and every check says so.
    pub fn set_outage(&self, outage: bool) {
        self.outage.store(outage, Ordering::SeqCst);
    }

    /// Lets every call fail though the check passes, or no longer.
    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// The effects so far, as event ids in order.
    pub fn effects(&self) -> Vec<String> {
        self.effects.lock().unwrap().clone()
    }

    /// Calls so far.
    pub fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Handler for LedgerHandler {
    async fn call(&self, event: &Event, _context: &Context<'_>) -> Outcome {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        if self.outage.load(Ordering::SeqCst) {
            return Outcome::retryable("scripted outage");
        }
        if self.failing.load(Ordering::SeqCst) {
            return Outcome::retryable("scripted failure");
        }
        let id = event.id.as_str().to_owned();
        let step = self.script.lock().unwrap().get_mut(&id).and_then(VecDeque::pop_front);
        match step {
            Some(Step::End(outcome)) => outcome,
            Some(Step::Panic) => panic!("scripted"),
            Some(Step::Hang) => std::future::pending().await,
            None => {
                self.effects.lock().unwrap().push(id);
                Outcome::Done
            }
        }
    }

    async fn check(&self) -> Result<(), Trouble> {
        if self.outage.load(Ordering::SeqCst) {
            return Err(Trouble::new(TroubleReason::Unreachable, "scripted outage"));
        }
        Ok(())
    }
}
