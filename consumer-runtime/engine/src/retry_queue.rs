//! Retries of a broker that does not deliver again to this process: they wait here.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use millrace_core::delivery::Delivery;
use tokio::sync::mpsc;
use tokio_util::time::DelayQueue;

use crate::{settle::hand_back, shared::Shared};

/// Moves deliveries from `retries` to the workers when their delay has passed; once what has not started is to be handed
/// back, hands them back, for as long as it runs. The window bounds how many wait.
pub(crate) async fn wait_and_requeue(shared: Arc<Shared>, mut retries: mpsc::Receiver<(Delivery, Duration)>) {
    let mut waiting = DelayQueue::new();
    loop {
        tokio::select! {
            () = shared.handing_back.cancelled() => break,
            received = retries.recv() => match received {
                Some((delivery, delay)) => { waiting.insert(delivery, delay); }
                None => return,
            },
            Some(due) = waiting.next() => if let Some(refused) = shared.work.put(Some(due.into_inner())) {
                hand_back(&shared, &refused).await;
                break;
            },
        }
    }
    while let Some(next) = waiting.peek() {
        hand_back(&shared, waiting.remove(&next).get_ref()).await;
    }
    while let Some((delivery, _)) = retries.recv().await {
        hand_back(&shared, &delivery).await;
    }
}
