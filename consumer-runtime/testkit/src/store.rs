//! A store with a fault plan in front of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use millrace_core::{
    claim::{Record, Wish},
    key::Key,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
};

use crate::faults::FaultPlan;

/// A store with a fault plan in front of it: what strikes does not reach the store.
pub struct FaultyStore {
    inner: Arc<dyn IdempotencyStore>,
    durable: bool,
    claims: AtomicU64,
    /// Faults of `claim`.
    pub claim_faults: FaultPlan,
    /// Faults of `end`.
    pub end_faults: FaultPlan,
    /// Faults of `ping`.
    pub ping_faults: FaultPlan,
}

impl FaultyStore {
    /// Puts fault plans in front of `inner`, and says whether it counts as durable.
    pub fn new(inner: Arc<dyn IdempotencyStore>, durable: bool) -> Self {
        Self {
            inner,
            durable,
            claims: AtomicU64::new(0),
            claim_faults: FaultPlan::default(),
            end_faults: FaultPlan::default(),
            ping_faults: FaultPlan::default(),
        }
    }

    /// Claims that were asked for so far.
    pub fn claims(&self) -> u64 {
        self.claims.load(Ordering::Relaxed)
    }
}

fn injected() -> StoreError {
    StoreError::Unavailable("injected".to_owned())
}

#[async_trait]
impl IdempotencyStore for FaultyStore {
    async fn claim(&self, key: &Key, wish: &Wish) -> Result<Claim, StoreError> {
        self.claims.fetch_add(1, Ordering::Relaxed);
        if self.claim_faults.strikes() {
            return Err(injected());
        }
        self.inner.claim(key, wish).await
    }

    async fn end(&self, key: &Key, claim: &Claimed, record: &Record) -> Result<(), StoreError> {
        if self.end_faults.strikes() {
            return Err(injected());
        }
        self.inner.end(key, claim, record).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        if self.ping_faults.strikes() {
            return Err(injected());
        }
        self.inner.ping().await
    }

    fn is_durable(&self) -> bool {
        self.durable
    }
}
