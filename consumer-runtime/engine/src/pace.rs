//! The rate limit: attempts start no faster than asked for.

use std::sync::{Arc, Mutex, PoisonError};

use millrace_core::{
    rate::{Rate, TokenBucket},
    time::Clock,
};

/// Lets attempts start at a rate, in the order in which they ask; at once where there is no limit.
pub(crate) struct Pace {
    bucket: Option<Mutex<TokenBucket>>,
    turn: tokio::sync::Mutex<()>,
    clock: Arc<dyn Clock>,
}

impl Pace {
    pub(crate) fn new(rate: Option<Rate>, clock: Arc<dyn Clock>) -> Self {
        Self { bucket: rate.map(TokenBucket::new).map(Mutex::new), turn: tokio::sync::Mutex::new(()), clock }
    }

    /// Waits until an attempt may start.
    pub(crate) async fn wait(&self) {
        let Some(bucket) = &self.bucket else { return };
        let _turn = self.turn.lock().await;
        loop {
            let taken = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(self.clock.monotonic());
            match taken {
                Ok(()) => return,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Says that the attempt which was waited for does not start after all.
    pub(crate) fn give_back(&self) {
        if let Some(bucket) = &self.bucket {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).give_back();
        }
    }
}
