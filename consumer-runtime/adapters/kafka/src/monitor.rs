//! Looks at a client from the side: how much waits, whether brokers answer, whether it has stalled, and whether a Secret
//! has changed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millrace_core::{health::Part, ports};
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaResult};
use tracing::{debug, error, info};

use crate::context::{Client, Shared};

/// Age at which a look at the lag counts for nothing any more.
const LAG_AGE_MAX: Duration = Duration::from_secs(15);

/// What is known of a client from the side.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    lag: Mutex<Option<Look>>,
    /// Since when the reader waits for events.
    waiting_since: Mutex<Option<Instant>>,
    received: AtomicBool,
    wants_new_client: Mutex<Option<&'static str>>,
}

/// What was seen when.
#[derive(Clone, Copy, Debug)]
struct Look {
    pending: u64,
    lanes: usize,
    at: Instant,
}

/// Tells how many events of the lanes that this process has wait to be taken.
#[derive(Clone, Debug)]
pub struct LagProbe(Arc<Watch>);

/// The reader waits as long as this lives.
pub(crate) struct Waiting(Arc<Watch>);

/// A running look from the side. It ends when this is dropped, after the request that it may be waiting for.
pub(crate) struct Monitor {
    stopped: Arc<AtomicBool>,
    thread: Option<Thread>,
}

impl LagProbe {
    pub(crate) fn new(watch: Arc<Watch>) -> Self {
        Self(watch)
    }
}

#[async_trait]
impl ports::LagProbe for LagProbe {
    async fn pending(&self) -> Option<u64> {
        self.0.look().map(|look| look.pending)
    }

    fn lanes(&self) -> Option<usize> {
        self.0.look().map(|look| look.lanes)
    }

    fn is_share(&self) -> bool {
        true
    }
}

impl Watch {
    pub(crate) fn received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// Whether anything came since the last call.
    pub(crate) fn take_received(&self) -> bool {
        self.received.swap(false, Ordering::Relaxed)
    }

    /// The reader waits for events, until the returned value is dropped.
    pub(crate) fn waits(self: &Arc<Self>) -> Waiting {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Waiting(Arc::clone(self))
    }

    /// Why a new client is wanted, if one is. Asked once.
    pub(crate) fn wants_new_client(&self) -> Option<&'static str> {
        self.wants_new_client.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn want_new_client(&self, why: &'static str) {
        *self.wants_new_client.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// How long the reader has waited for events; `None` while it does not wait.
    pub(crate) fn waited(&self) -> Option<Duration> {
        let since = *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed())
    }

    fn lag_is(&self, pending: u64, lanes: usize) {
        let look = Look { pending, lanes, at: Instant::now() };
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner) = Some(look);
    }

    /// The last look, while it counts.
    fn look(&self) -> Option<Look> {
        let look = *self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        look.filter(|look| look.at.elapsed() < LAG_AGE_MAX)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.0.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Monitor {
    /// Starts to look at `client`.
    pub(crate) fn start(shared: Arc<Shared>, client: Arc<Client>, watch: Arc<Watch>) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("kafka monitor".to_owned()).spawn({
            let stopped = Arc::clone(&stopped);
            move || look(&shared, &client, &watch, &stopped)
        });
        match thread {
            Ok(thread) => Self { stopped, thread: Some(thread.thread().clone()) },
            Err(error) => {
                error!(%error, "failed to start a thread: nobody looks after the client");
                Self { stopped, thread: None }
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

fn look(shared: &Shared, client: &Client, watch: &Watch, stopped: &AtomicBool) {
    let timing = &shared.options.timing;
    let secrets = shared.options.connection.fingerprint();
    loop {
        thread::park_timeout(timing.look);
        if stopped.load(Ordering::Acquire) {
            return;
        }
        if shared.options.connection.fingerprint() != secrets {
            watch.want_new_client("a Secret has changed");
            return shared.lanes.wake_committer();
        }
        match pending(shared, client) {
            Ok(pending) => {
                watch.lag_is(pending.all, shared.lanes.held().len());
                shared.failure.clear();
                if shared.health.works(Part::Broker) {
                    info!("the brokers answer again");
                }
                if pending.takable > 0 && watch.waited().is_some_and(|waited| waited >= timing.stall) {
                    watch.want_new_client("no event came though some wait");
                    return shared.lanes.wake_committer();
                }
            }
            Err(error) => {
                let trouble = shared.failure.trouble(&shared.options.connection, &error);
                debug!(%error, "the brokers do not answer");
                shared.health.fails(Part::Broker, trouble);
            }
        }
    }
}

/// Events of the lanes that are held and that nobody has taken yet.
#[derive(Clone, Copy, Default)]
struct Pending {
    all: u64,
    /// Those of lanes that are not full: the others are not to be taken before what holds their lane up has ended.
    takable: u64,
}

/// Asks the brokers what waits, also when no lane is held.
fn pending(shared: &Shared, client: &Client) -> KafkaResult<Pending> {
    let limit = shared.options.timing.request;
    let lanes = shared.lanes.held();
    if lanes.is_empty() {
        let topic = shared.options.topics.first().map(String::as_str);
        return client.fetch_metadata(topic, limit).map(|_| Pending::default());
    }
    let mut ends = TopicPartitionList::with_capacity(lanes.len());
    for lane in &lanes {
        ends.add_partition_offset(&lane.topic, lane.partition, Offset::End)?;
    }
    let ends = client.offsets_for_times(ends, limit)?;
    let mut pending = Pending::default();
    for end in ends.elements() {
        end.error()?;
        let (Offset::Offset(offset), lane) = (end.offset(), shared.lanes.lane(end.topic(), end.partition())) else {
            continue;
        };
        let Some(events) = lane.held().as_mut().map(|held| held.pending(offset)) else { continue };
        pending.all = pending.all.saturating_add(events);
        if !lane.is_full() {
            pending.takable = pending.takable.saturating_add(events);
        }
    }
    Ok(pending)
}
