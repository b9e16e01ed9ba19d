//! What the tasks of one engine share.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use millrace_core::{
    delivery::{Delivery, Position},
    health::Health,
    lane::{Begun, Lane},
    naming::{Name, Naming},
    order::{Ordering, Sequencer},
    ports::{Handler, IdempotencyStore, Settler},
    seen::{Seen, Sight},
    time::Clock,
    window::{Budget, Window, WindowLimits},
};
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    OnExhausted, Policy, Tracing, circuit::Circuit, finished::Finished, gate::Gate, metrics::Metrics, pace::Pace,
    work::Work,
};

/// Events that are known to be done without asking the store: what is likely to come again soon, in 2 MiB.
const DONE_HERE_MAX: usize = 65_536;

/// Deliveries that are registered in one go: the workers wait for the lane meanwhile.
const BEGUN_AT_ONCE: usize = 64;

/// What is remembered of a delivery that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    position: Position,
    /// What it counted for in the window.
    size: usize,
}

impl Ended {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        Self { position: delivery.position, size: delivery.size() }
    }
}

/// What the tasks of one engine share. No lock is held over an await.
pub(crate) struct Shared {
    pub(crate) policy: Policy,
    /// Who consumes, as text.
    pub(crate) consumer: String,
    pub(crate) settler: Arc<dyn Settler>,
    pub(crate) store: Option<Arc<dyn IdempotencyStore>>,
    /// How events are named in the store.
    pub(crate) naming: Naming,
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
    /// What is ready for a worker.
    pub(crate) work: Work,
    /// What is to be settled.
    pub(crate) finished: Finished,
    /// What waits here for its next attempt. As large as the window.
    pub(crate) retries: mpsc::Sender<(Delivery, Duration)>,
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
        retries: mpsc::Sender<(Delivery, Duration)>,
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
            naming: Naming::new(policy.consumer.clone(), store.as_ref().is_some_and(|store| store.is_durable())),
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
            work: Work::default(),
            finished: Finished::default(),
            retries,
            sequencer: Mutex::default(),
            lane: Mutex::new(Lane::new(ack_wait)),
            window: Mutex::new(Window::new(limits)),
            room: Notify::new(),
        }
    }

    /// Whether this very event was done here. If not, the store knows.
    pub(crate) fn was_done_here(&self, name: &Name) -> bool {
        let look = |seen: &Seen| seen.look(&name.key, name.fingerprint, self.clock.monotonic());
        self.done_here.as_ref().map(look) == Some(Sight::Done)
    }

    /// An event is done, and the store has it.
    pub(crate) fn done_here(&self, name: &Name) {
        if let Some(seen) = &self.done_here {
            seen.note(&name.key, name.fingerprint, self.clock.monotonic());
        }
    }

    pub(crate) fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns how long attempts took.
    pub(crate) fn observe(&self, attempts: impl IntoIterator<Item = Duration>) {
        let mut window = self.window();
        for attempt in attempts {
            self.metrics.attempt_seconds.observe(attempt.as_secs_f64());
            window.observe(attempt);
        }
        self.metrics.window.set(i64::from(window.size()));
    }

    /// The answer of the store. Its time is noted where it had to be waited for: what is answered at once was not asked for
    /// outside of this process.
    pub(crate) async fn timed<T>(&self, seconds: &Histogram, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        if let Poll::Ready(answer) = futures::poll!(answer.as_mut()) {
            return answer;
        }
        let asked_at = self.clock.monotonic();
        let answer = answer.await;
        seconds.observe(self.clock.monotonic().since(asked_at).as_secs_f64());
        answer
    }

    /// Registers deliveries: in the lane, and, those that are new, in the window. Returns these.
    pub(crate) fn begin(&self, mut batch: Vec<Delivery>) -> Vec<Delivery> {
        let mut begun = Vec::with_capacity(batch.len());
        for some in batch.chunks(BEGUN_AT_ONCE) {
            let mut lane = self.lane();
            begun.extend(some.iter().map(|delivery| lane.begin(delivery)));
        }
        let mut begun = begun.into_iter();
        batch.retain(|_| begun.next() == Some(Begun::New));
        let mut window = self.window();
        for delivery in &batch {
            window.take(delivery.size());
        }
        drop(window);
        self.metrics.in_flight.inc_by(i64::try_from(batch.len()).unwrap_or(i64::MAX));
        batch
    }

    /// Ends deliveries: intake may read again, and the successors in their order may start.
    pub(crate) fn end(&self, ended: &[Ended]) {
        let (ended, nothing_left): (Vec<&Ended>, bool) = {
            let mut lane = self.lane();
            (ended.iter().filter(|one| lane.end(one.position)).collect(), lane.is_empty())
        };
        if ended.is_empty() {
            return;
        }
        let has_room = {
            let mut window = self.window();
            for one in &ended {
                window.give_back(one.size);
            }
            window.is_worth_filling()
        };
        self.metrics.in_flight.dec_by(i64::try_from(ended.len()).unwrap_or(i64::MAX));
        if has_room || nothing_left {
            self.room.notify_one();
        }
        if self.policy.ordering != Ordering::Unordered {
            let successors = {
                let mut sequencer = self.sequencer();
                ended.iter().filter_map(|one| sequencer.leave(one.position)).collect()
            };
            self.start(successors);
        }
    }

    /// Gives deliveries that have begun to the workers, now or when those before them in their order have ended.
    pub(crate) fn enqueue(&self, deliveries: Vec<Delivery>) {
        if self.policy.ordering == Ordering::Unordered {
            return self.start(deliveries);
        }
        let mut starting = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            match self.policy.ordering.key(&delivery) {
                Some(key) => starting.extend(self.sequencer().enter(key, delivery.position, delivery)),
                None => starting.push(delivery),
            }
        }
        self.start(starting);
    }

    /// What waits for others in its order, so that it is handed back.
    pub(crate) fn take_waiting(&self) -> Vec<Delivery> {
        self.sequencer().take_waiting()
    }

    fn start(&self, deliveries: Vec<Delivery>) {
        if deliveries.is_empty() {
            return;
        }
        // It is closed only when nothing enters any more.
        let refused: Vec<Ended> = self.work.put(deliveries).iter().map(Ended::of).collect();
        self.end(&refused);
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
