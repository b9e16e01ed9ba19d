//! What the tasks of one engine share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_core::{
    delivery::Delivery,
    health::Health,
    key::Key,
    lane::{Begun, Lane},
    order::{Ordering, Sequencer},
    ports::{Handler, Hold, IdempotencyStore, Settler},
    seen::{Seen, Sight},
    time::Clock,
    window::{Budget, Window, WindowLimits},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{OnExhausted, Policy, Tracing, circuit::Circuit, gate::Gate, metrics::Metrics, pace::Pace};

/// Events that are known to be done without asking the store: what is likely to come again soon, in 2 MiB.
const DONE_HERE_MAX: usize = 65_536;

/// What the tasks of one engine share. No lock is held over an await.
pub(crate) struct Shared {
    pub(crate) policy: Policy,
    /// Who consumes, as text.
    pub(crate) consumer: String,
    pub(crate) settler: Arc<dyn Settler>,
    pub(crate) store: Option<Arc<dyn IdempotencyStore>>,
    /// Events that are done and recorded as such by this process, in front of a store that is slower to ask.
    done_here: Option<Seen>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) on_exhausted: OnExhausted,
    pub(crate) tracing: Option<Tracing>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Metrics,
    pub(crate) store_gate: Gate,
    pub(crate) handler_gate: Gate,
    /// Shut for good when an event is given up that is to stop everything.
    pub(crate) pause_gate: Gate,
    pub(crate) handler_failed: Notify,
    pub(crate) circuit: Circuit,
    pub(crate) pace: Pace,
    /// Cancelled when what has not started is to be handed back.
    pub(crate) handing_back: CancellationToken,
    /// What is ready for a worker. As large as the window.
    pub(crate) work: async_channel::Sender<Delivery>,
    sequencer: Mutex<Sequencer<Delivery>>,
    lane: Mutex<Lane>,
    window: Mutex<Window>,
    room: Notify,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "one call, from the engine's own constructor, of its parts")]
    pub(crate) fn new(
        policy: Policy,
        settler: Arc<dyn Settler>,
        store: Option<Arc<dyn IdempotencyStore>>,
        handler: Arc<dyn Handler>,
        on_exhausted: OnExhausted,
        tracing: Option<Tracing>,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
        metrics: Metrics,
        work: async_channel::Sender<Delivery>,
    ) -> Self {
        let ack_wait = settler.redelivery().ack_wait();
        let limits = WindowLimits {
            workers: policy.workers,
            messages: policy.in_flight_messages,
            bytes: policy.in_flight_bytes,
            start_within: settler.redelivery().start_within(),
            rate: policy.rate,
        };
        Self {
            circuit: Circuit::new(policy.circuit, Arc::clone(&health), metrics.clone()),
            pace: Pace::new(policy.rate, Arc::clone(&clock)),
            handing_back: CancellationToken::new(),
            consumer: policy.consumer.to_string(),
            done_here: store
                .as_ref()
                .filter(|store| store.is_durable())
                .map(|_| Seen::new(DONE_HERE_MAX, policy.known_for)),
            policy,
            settler,
            store,
            handler,
            on_exhausted,
            tracing,
            clock,
            health,
            metrics,
            store_gate: Gate::open(),
            handler_gate: Gate::open(),
            pause_gate: Gate::open(),
            handler_failed: Notify::new(),
            work,
            sequencer: Mutex::default(),
            lane: Mutex::new(Lane::new(ack_wait)),
            window: Mutex::new(Window::new(limits)),
            room: Notify::new(),
        }
    }

    /// Whether this very event was done here. If not, the store knows.
    pub(crate) fn was_done_here(&self, key: &Key, fingerprint: &str) -> bool {
        let sight = self.done_here.as_ref().map(|seen| seen.look(key, fingerprint, self.clock.monotonic()));
        sight == Some(Sight::Done)
    }

    /// An event is done, and the store has it.
    pub(crate) fn done_here(&self, hold: &Hold) {
        if let Some(seen) = &self.done_here {
            seen.note(&hold.key, &hold.claimed.record.fingerprint, self.clock.monotonic());
        }
    }

    pub(crate) fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers deliveries: in the lane, and, those that are new, in the window. Returns these.
    pub(crate) fn begin(&self, mut batch: Vec<Delivery>) -> Vec<Delivery> {
        let (mut lane, mut window) = (self.lane(), self.window());
        batch.retain(|delivery| {
            let is_new = lane.begin(delivery) == Begun::New;
            if is_new {
                window.take(delivery.size());
            }
            is_new
        });
        self.metrics.in_flight.inc_by(i64::try_from(batch.len()).unwrap_or(i64::MAX));
        batch
    }

    /// Ends a delivery: intake may read again, and the successor in its order may start.
    pub(crate) fn end(&self, delivery: &Delivery) {
        let (ended, nothing_left) = {
            let mut lane = self.lane();
            (lane.end(delivery.position), lane.is_empty())
        };
        if !ended {
            return;
        }
        let has_room = {
            let mut window = self.window();
            window.give_back(delivery.size());
            window.is_worth_filling()
        };
        self.metrics.in_flight.dec();
        if has_room || nothing_left {
            self.room.notify_one();
        }
        if self.policy.ordering != Ordering::Unordered {
            let successor = self.sequencer().leave(delivery.position);
            if let Some(successor) = successor {
                self.start(successor);
            }
        }
    }

    /// Gives a delivery that has begun to the workers, now or when those before it in its order have ended.
    pub(crate) fn enqueue(&self, delivery: Delivery) {
        let starts = match self.policy.ordering.key(&delivery) {
            Some(key) => self.sequencer().enter(key, delivery.position, delivery),
            None => Some(delivery),
        };
        if let Some(delivery) = starts {
            self.start(delivery);
        }
    }

    /// What waits for others in its order, so that it is handed back.
    pub(crate) fn take_waiting(&self) -> Vec<Delivery> {
        self.sequencer().take_waiting()
    }

    fn start(&self, delivery: Delivery) {
        // The queue has room for whatever the window let in, and is closed only when nothing enters any more.
        if let Err(refused) = self.work.try_send(delivery) {
            self.end(&refused.into_inner());
        }
    }

    fn sequencer(&self) -> MutexGuard<'_, Sequencer<Delivery>> {
        self.sequencer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a delivery that is not done waits in this process for its next attempt: where the broker would not give it
    /// back to it, and where its successors wait for it.
    pub(crate) fn retries_here(&self, delivery: &Delivery) -> bool {
        let asks_broker = self.settler.redelivery().ack_wait().is_some() && self.policy.ordering == Ordering::Unordered;
        !asks_broker && self.settler.owns(&delivery.receipt)
    }

    /// Waits until nothing is held.
    pub(crate) async fn idle(&self) {
        while !self.lane().is_empty() {
            self.room.notified().await;
        }
    }

    /// Waits until there is room in the window, and says how much.
    pub(crate) async fn room(&self) -> Budget {
        loop {
            let budget = {
                let window = self.window();
                window.budget().filter(|_| window.is_worth_filling())
            };
            if let Some(budget) = budget {
                return budget;
            }
            self.room.notified().await;
        }
    }
}
