//! Retries of a broker that never delivers again: they wait in this process.

use std::time::Duration;

use futures::StreamExt;
use millrace_core::delivery::Delivery;
use tokio_util::time::DelayQueue;

/// Moves deliveries from `retries` to `work` when their delay has passed. Ends when either side is closed. The window
/// bounds how many wait.
pub(crate) async fn wait_and_requeue(
    retries: async_channel::Receiver<(Delivery, Duration)>,
    work: async_channel::Sender<Delivery>,
) {
    let mut waiting = DelayQueue::new();
    loop {
        tokio::select! {
            received = retries.recv() => match received {
                Ok((delivery, delay)) => { waiting.insert(delivery, delay); }
                Err(_) => return,
            },
            Some(due) = waiting.next() => if work.send(due.into_inner()).await.is_err() { return },
        }
    }
}
