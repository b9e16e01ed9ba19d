//! The rate limit: attempts start no faster than asked for.

use std::sync::{Arc, Mutex, PoisonError};

use millrace_core::{
    rate::{Rate, TokenBucket},
    time::Clock,
};
use tokio_util::sync::CancellationToken;

/// Lets attempts start at a rate, in the order in which they ask; at once where there is no limit.
pub(crate) struct Pace {
    bucket: Option<Mutex<TokenBucket>>,
    queue: tokio::sync::Mutex<()>,
    clock: Arc<dyn Clock>,
}

impl Pace {
    pub(crate) fn new(rate: Option<Rate>, clock: Arc<dyn Clock>) -> Self {
        Self { bucket: rate.map(TokenBucket::new).map(Mutex::new), queue: tokio::sync::Mutex::new(()), clock }
    }

    /// Waits until an attempt may start; nothing when `cancelled` comes first. At once where nothing limits the rate.
    pub(crate) async fn turn_unless(&self, cancelled: &CancellationToken) -> Option<Turn<'_>> {
        match &self.bucket {
            None => Some(Turn { bucket: None }),
            Some(bucket) => cancelled.run_until_cancelled(self.turn(bucket)).await,
        }
    }

    async fn turn<'pace>(&'pace self, bucket: &'pace Mutex<TokenBucket>) -> Turn<'pace> {
        let _next = self.queue.lock().await;
        loop {
            let taken = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(self.clock.monotonic());
            match taken {
                Ok(()) => return Turn { bucket: Some(bucket) },
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }
}

/// Leave to start one attempt. Dropped without a start, it costs nothing.
pub(crate) struct Turn<'pace> {
    bucket: Option<&'pace Mutex<TokenBucket>>,
}

impl Turn<'_> {
    /// The attempt starts.
    pub(crate) fn start(mut self) {
        self.bucket = None;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(bucket) = self.bucket {
            bucket.lock().unwrap_or_else(PoisonError::into_inner).give_back();
        }
    }
}
