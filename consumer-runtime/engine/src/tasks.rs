//! The only place that starts tasks.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Starts a task with a name in its logs. The caller owns the handle.
#[expect(clippy::disallowed_methods, reason = "this is the place that the others are sent to")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.instrument(tracing::info_span!("task", name)))
}

/// A task that ends with its owner.
#[derive(Debug)]
pub struct Owned(JoinHandle<()>);

impl Owned {
    /// Starts a task that is aborted when the returned value is dropped.
    pub fn spawn(name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(spawn(name, future))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}
