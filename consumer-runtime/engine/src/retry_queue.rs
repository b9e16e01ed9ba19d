//! Retries of a broker that does not deliver again to this process: they wait here.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use millrace_core::delivery::Delivery;
use tokio_util::time::DelayQueue;

use crate::{settle::hand_back, shared::Shared};

/// Moves deliveries from `retries` to the workers when their delay has passed; once what has not started is to be handed
/// back, hands them back. The window bounds how many wait. Ends when either side is closed.
pub(crate) async fn wait_and_requeue(shared: Arc<Shared>, retries: async_channel::Receiver<(Delivery, Duration)>) {
    let mut waiting = DelayQueue::new();
    loop {
        tokio::select! {
            () = shared.handing_back.cancelled() => break,
            received = retries.recv() => match received {
                Ok((delivery, delay)) => { waiting.insert(delivery, delay); }
                Err(_) => return,
            },
            Some(due) = waiting.next() => if let Err(closed) = shared.work.send(due.into_inner()).await {
                hand_back(&shared, &closed.into_inner()).await;
                break;
            },
        }
    }
    while let Some(next) = waiting.peek() {
        hand_back(&shared, waiting.remove(&next).get_ref()).await;
    }
    while let Ok((delivery, _)) = retries.recv().await {
        hand_back(&shared, &delivery).await;
    }
}
