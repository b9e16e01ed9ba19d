//! An engine from start to drain.

use std::{future::Future, sync::Arc, time::Duration};

use millrace_core::{
    delivery::Delivery,
    health::Health,
    ports::{Handler, IdempotencyStore, Reader, Redelivery, Settler},
    time::Clock,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    OnExhausted, Policy, Tracing, attempt::Worker, circuit, figures, handler_watch, intake, keepalive, line::carry,
    metrics::Metrics, retry_queue, settle::hand_back, shared::Shared, tasks::Owned,
};

/// The time in which everything sent must have reached the broker at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything that one engine works with.
pub struct Engine {
    /// Its settings.
    pub policy: Policy,
    /// Where deliveries come from.
    pub reader: Box<dyn Reader>,
    /// Where settlements go.
    pub settler: Arc<dyn Settler>,
    /// Where claims are kept, `None` where none are asked for.
    pub store: Option<Arc<dyn IdempotencyStore>>,
    /// What is done with an event.
    pub handler: Arc<dyn Handler>,
    /// What becomes of an event that is given up.
    pub on_exhausted: OnExhausted,
    /// How traces are kept, `None` where none are.
    pub tracing: Option<Tracing>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where trouble is told.
    pub health: Arc<Health>,
    /// Where figures are kept.
    pub metrics: Metrics,
}

/// How a drain ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Drained {
    /// Everything taken was finished and settled, or handed back unstarted.
    Clean {
        /// Deliveries handed back unstarted.
        handed_back: u64,
    },
    /// The deadline came first. What was at work is not settled, and a broker that keeps events delivers it again.
    Cut {
        /// Deliveries that were at work.
        unsettled: usize,
    },
    /// Nothing asked for it: the broker's client had failed for good. What was at work was finished where that was
    /// possible; another process goes on.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Engine {
    /// Consumes until `stop` is ready, then drains: takes no more, hands back what has not started, lets the rest
    /// finish, gives up at the drain timeout, and flushes.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Drained {
        let mut reader = self.reader;
        let window_max = self.policy.in_flight_messages.max(self.policy.workers).max(1);
        let (retry_sender, retries) = mpsc::channel(usize::try_from(window_max).unwrap_or(Semaphore::MAX_PERMITS));
        let shared = Arc::new(Shared::new(
            self.policy,
            self.settler,
            self.store,
            self.handler,
            self.on_exhausted,
            self.tracing,
            self.clock,
            self.health,
            self.metrics,
            retry_sender,
        ));
        let workers = start_workers(&shared);
        let keepalive = Owned::spawn("keepalive", keepalive::keep_alive(Arc::clone(&shared)));
        let handler_watch = Owned::spawn("handler watch", handler_watch::watch(Arc::clone(&shared)));
        let figures = Owned::spawn("figures", figures::keep(Arc::clone(&shared)));
        let circuit_watch = Owned::spawn("circuit watch", circuit::watch(Arc::clone(&shared)));
        let requeue = retry_queue::wait_and_requeue(Arc::clone(&shared), retries);
        let requeue = Owned::spawn("retries", requeue);
        let failure = {
            let watch_store = intake::watch_store(&shared);
            let intake = intake::take(&shared, reader.as_mut());
            tokio::select! {
                // The stop comes first: nothing may be taken after it.
                biased;
                () = stop => None,
                reason = intake => Some(reason),
                () = watch_store => None,
            }
        };
        info!(in_flight = shared.lane().len(), "draining");
        let drained = drain(&shared, reader.as_mut(), workers).await;
        drop((keepalive, handler_watch, figures, circuit_watch, requeue));
        if tokio::time::timeout(FLUSH_TIMEOUT, shared.settler.flush()).await.is_err() {
            warn!("the broker did not confirm the last settlements in time");
        }
        failure.map_or(drained, |reason| Drained::Failed { reason })
    }
}

fn start_workers(shared: &Arc<Shared>) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for _ in 0..shared.policy.workers {
        let shared = Arc::clone(shared);
        workers.spawn(async move {
            let mut worker = Worker::new();
            while let Some(taken) = shared.work.take().await {
                carry(&shared, &mut worker, taken).await;
            }
        });
    }
    workers
}

async fn drain(shared: &Shared, reader: &mut dyn Reader, mut workers: JoinSet<()>) -> Drained {
    let deadline = tokio::time::Instant::now() + shared.policy.drain_timeout;
    let redelivers = shared.settler.redelivery() != Redelivery::Never;
    if redelivers {
        // What waits for a worker, for its turn or for others in its order has not started. A closed queue lets the
        // workers end after what they have.
        let waiting = shared.take_waiting();
        shared.work.close();
        shared.handing_back.cancel();
        // A client whose broker is away may take no word.
        let handing_back = hand_back_unstarted(shared, reader, waiting);
        if tokio::time::timeout_at(deadline, handing_back).await.is_err() {
            warn!("what has not started could not be handed back in time");
        }
    } else {
        // Nobody else would get what is handed back: it is finished here.
        while let Ok(Some(batch)) = tokio::time::timeout_at(deadline, reader.rest()).await {
            intake::register(shared, batch);
        }
        shared.metrics.lost.inc_by(reader.dropped());
        if tokio::time::timeout_at(deadline, shared.idle()).await.is_ok() {
            shared.work.close();
        }
    }
    let finishing = async {
        while workers.join_next().await.is_some() {}
        shared.idle().await;
    };
    let finished = tokio::time::timeout_at(deadline, finishing).await;
    let unsettled = shared.lane().len();
    if finished.is_ok() && unsettled == 0 {
        return Drained::Clean { handed_back: shared.metrics.handed_back.get() };
    }
    workers.shutdown().await;
    if !redelivers {
        shared.metrics.lost.inc_by(u64::try_from(unsettled).unwrap_or(u64::MAX));
    }
    Drained::Cut { unsettled }
}

async fn hand_back_unstarted(shared: &Shared, reader: &mut dyn Reader, waiting: Vec<Delivery>) {
    for delivery in waiting.into_iter().chain(shared.work.take_all()) {
        hand_back(shared, &delivery).await;
    }
    // What still comes is handed back when nothing more can come: before that it would come to this very process again.
    let mut late = Vec::new();
    while let Some(batch) = reader.rest().await {
        late.extend(shared.begin(batch));
    }
    for delivery in late {
        hand_back(shared, &delivery).await;
    }
}
