//! The thread that serves a client: polls it always, commits, and makes it anew when that is needed.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use millrace_core::health::{Part, Trouble, TroubleReason};
use rdkafka::{ClientConfig, config::FromClientConfigAndContext as _, consumer::Consumer as _, error::KafkaError};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::{
    close::close,
    context::{Client, Context, Shared},
    lanes::Lanes,
    monitor::{LagProbe, Monitor, Waiting, Watch},
};

/// Longest pause between two polls. News ends it early.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// Shortest pause between two commits. A handler that is done at once would else have its client do little but commit.
const COMMIT_PAUSE: Duration = Duration::from_millis(20);

/// The time without an event after which what is settled is committed, so that nothing of a lane that has been read to its
/// end is delivered again.
const QUIET: Duration = Duration::from_millis(50);

/// The time for which a broker keeps a fetch that has nothing new. A connection has one fetch at a time, of the lanes whose queue
/// has room: while that is a quiet one alone, a busy one lives on its queue. The library's own 500 ms would let it have two queues
/// a second. Shorter costs idle brokers more requests.
const FETCH_WAIT: Duration = Duration::from_millis(50);

/// Events that are served in one go. The library does not say whether there are more.
const EVENTS_AT_ONCE: u32 = 16;

/// The pause before a client that cannot be made is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Clients made anew in a row without an event from any. After that another process is given a chance.
const REBUILDS_MAX: u32 = 3;

/// What the thread is asked for.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    stop: AtomicBool,
    closed: AtomicBool,
    flushes: Mutex<Vec<oneshot::Sender<Result<(), String>>>>,
}

/// A running thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    requests: Arc<Requests>,
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

/// Why a client is given up.
enum End {
    Stopped,
    MakeAnew(&'static str),
    Fatal(String),
}

impl Requests {
    /// Asks for a commit of everything, and for the broker's word on it.
    pub(crate) async fn flush(&self, lanes: &Lanes) -> Result<Result<(), String>, oneshot::error::RecvError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut flushes = self.flushes.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.closed.load(Ordering::Acquire) {
                flushes.push(sender);
            }
        }
        lanes.wake_committer();
        receiver.await
    }

    fn flushes(&self) -> Vec<oneshot::Sender<Result<(), String>>> {
        std::mem::take(&mut *self.flushes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Worker {
    /// Starts the thread. `partitions` is how many the topics have in all.
    pub(crate) fn start(shared: Arc<Shared>, partitions: usize) -> Result<Self, Trouble> {
        let (requests, watch) = (Arc::new(Requests::default()), Arc::new(Watch::default()));
        let thread = thread::Builder::new().name("kafka".to_owned()).spawn({
            let (shared, requests, watch) = (Arc::clone(&shared), Arc::clone(&requests), Arc::clone(&watch));
            move || {
                serve(&shared, &requests, &watch, partitions);
                requests.closed.store(true, Ordering::Release);
                drop(requests.flushes());
            }
        });
        let failed =
            |error: std::io::Error| Trouble::new(TroubleReason::Failing, format!("failed to start a thread: {error}"));
        Ok(Self { shared, requests, watch, thread: Some(thread.map_err(failed)?) })
    }

    pub(crate) fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.requests)
    }

    pub(crate) fn lag(&self) -> LagProbe {
        LagProbe::new(Arc::clone(&self.watch))
    }

    /// An event has come.
    pub(crate) fn received(&self) {
        self.watch.received();
    }

    /// The reader waits for events, until the returned value is dropped.
    pub(crate) fn waits(&self) -> Waiting {
        let waiting = self.watch.waits();
        // What is settled may be committed soon.
        self.shared.lanes.wake_committer();
        waiting
    }

    /// Commits, leaves the group, and ends the thread: within the time that each of it may take.
    pub(crate) fn stop(&mut self) {
        self.shared.leaving.store(true, Ordering::Release);
        self.requests.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread bounds each of its own waits.
            if thread.join().is_err() {
                error!("the thread of the Kafka client has panicked");
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn no_thread(error: io::Error) -> Trouble {
    Trouble::new(TroubleReason::Failing, format!("failed to start a thread: {error}"))
}

/// Serves one client after the other until the stop or a fatal error.
fn serve(shared: &Arc<Shared>, requests: &Requests, watch: &Arc<Watch>, partitions: usize) {
    let mut silent = 0_u32;
    loop {
        let Some(client) = make(shared, requests, partitions) else { return };
        let monitor = Monitor::start(Arc::clone(shared), Arc::clone(&client), Arc::clone(watch));
        let end = serve_one(shared, requests, watch, &client);
        drop(monitor);
        close(shared, client);
        match end {
            End::Stopped => return,
            End::Fatal(reason) => return shared.lanes.fails_for_good(reason),
            End::MakeAnew(why) => {
                shared.lanes.metrics.rebuilds.inc();
                silent = if watch.take_received() { 1 } else { silent.saturating_add(1) };
                warn!(why, in_a_row = silent, "the client is made anew");
                if silent > REBUILDS_MAX {
                    return shared.lanes.fails_for_good(format!("{why}, and {REBUILDS_MAX} new clients did not help"));
                }
            }
        }
    }
}

/// Makes a client, and tries again until it can be made; nothing when the stop comes first.
fn make(shared: &Arc<Shared>, requests: &Requests, partitions: usize) -> Option<Arc<Client>> {
    while !requests.stop.load(Ordering::Acquire) {
        match try_to_make(shared, partitions) {
            Ok(client) => return Some(client),
            Err(trouble) => {
                if shared.health.fails(Part::Broker, trouble.clone()) {
                    warn!(reason = ?trouble.reason, message = trouble.message, "the client cannot be made");
                }
                thread::park_timeout(RETRY_PAUSE);
            }
        }
    }
    None
}

fn try_to_make(shared: &Arc<Shared>, partitions: usize) -> Result<Arc<Client>, Trouble> {
    let config = consumer_config(shared, partitions)?;
    let failing = |error: KafkaError| Trouble::new(TroubleReason::Failing, format!("failed to make a client: {error}"));
    let mut client = Client::from_config_and_context(&config, Context::new(Arc::clone(shared))).map_err(failing)?;
    let thread = thread::current();
    client.set_nonempty_callback({
        let thread = thread.clone();
        move || thread.unpark()
    });
    shared.lanes.committer_is(thread);
    let client = Arc::new(client);
    client.context().belongs_to(&client).map_err(no_thread)?;
    let topics: Vec<&str> = shared.options.topics.iter().map(String::as_str).collect();
    client.subscribe(&topics).map_err(failing)?;
    Ok(client)
}

fn consumer_config(shared: &Shared, partitions: usize) -> Result<ClientConfig, Trouble> {
    let options = &shared.options;
    let mut config = options.connection.reader_config(&options.group)?;
    // A lane has a queue of its own, to which a fetch adds when it is not full. What a fetch brings for all lanes lies in one
    // block, which is held as long as any of it is queued.
    let prefetch = usize::try_from(options.prefetch_bytes).unwrap_or(usize::MAX);
    let of_lane = prefetch.checked_div(partitions.max(1) * 2).unwrap_or_default().clamp(32 * 1024, 4 * 1024 * 1024);
    let of_fetch = (prefetch / 4).clamp(of_lane, 16 * 1024 * 1024);
    config
        // Members of one group must agree on it: do not change it in one step.
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", options.timing.session.as_millis().to_string())
        .set("heartbeat.interval.ms", (options.timing.session.as_millis() / 7).to_string())
        // The thread polls every 100 ms, and waits at most some seconds in a rebalance.
        .set("max.poll.interval.ms", options.timing.session.as_millis().max(60_000).to_string())
        .set("queued.min.messages", "10000")
        .set("fetch.wait.max.ms", FETCH_WAIT.as_millis().to_string())
        .set("queued.max.messages.kbytes", (of_lane / 1024).to_string())
        .set("max.partition.fetch.bytes", of_lane.to_string())
        .set("fetch.max.bytes", of_fetch.to_string())
        // Of what is published: nothing here. The library takes no fetch that is smaller.
        .set("message.max.bytes", of_fetch.min(1_000_000).to_string());
    Ok(config)
}

fn serve_one(shared: &Shared, requests: &Requests, watch: &Watch, client: &Arc<Client>) -> End {
    let mut committed_at = Instant::now();
    loop {
        for _ in 0..EVENTS_AT_ONCE {
            if let Some(end) = event(shared, client) {
                return end;
            }
        }
        if requests.stop.load(Ordering::Acquire) {
            return End::Stopped;
        }
        if let Some(why) = watch.wants_new_client() {
            return End::MakeAnew(why);
        }
        let waiting = requests.flushes();
        let mut pause = POLL_PAUSE;
        if !waiting.is_empty() {
            let lanes = &shared.lanes;
            let flushed = client.context().commit_now(&lanes.held());
            for flush in waiting {
                // Whoever asked may have gone.
                drop(flush.send(flushed.clone()));
            }
        } else if let Some(committer) = client.context().committer().filter(|committer| !committer.is_busy()) {
            // One that is busy says when it no longer is.
            let due_in = commit_due_in(shared, watch, committed_at.elapsed());
            if due_in.is_zero() {
                committed_at = Instant::now();
                committer.commit(shared.lanes.commits(&shared.lanes.held()));
            } else {
                pause = due_in.min(POLL_PAUSE);
            }
        }
        thread::park_timeout(pause);
    }
}

/// The time until a commit is due, so long after the last: when many deliveries are settled, when the lanes have been read to
/// their ends, or when the interval is over.
fn commit_due_in(shared: &Shared, watch: &Watch, since: Duration) -> Duration {
    let by_interval = shared.options.timing.commit_interval.saturating_sub(since);
    let by_pause = COMMIT_PAUSE.saturating_sub(since);
    if shared.lanes.many_are_settled() {
        return by_pause.min(by_interval);
    }
    match watch.waited() {
        Some(waited) if shared.lanes.some_are_settled() => by_pause.max(QUIET.saturating_sub(waited)).min(by_interval),
        _ => by_interval,
    }
}

/// Serves one event of the client, if there is one.
fn event(shared: &Shared, client: &Client) -> Option<End> {
    match client.poll(Duration::ZERO)? {
        // Every lane has its own queue from before its first event on. One that came here would be passed by the frontier.
        Ok(_) => Some(End::Fatal("an event came outside of its lane".to_owned())),
        Err(KafkaError::MessageConsumptionFatal(code)) => {
            let detail = client.client().fatal_error().map(|(_, detail)| detail).unwrap_or_default();
            Some(End::Fatal(format!("{code}: {detail}")))
        }
        Err(KafkaError::PartitionEOF(_)) => None,
        Err(error) => {
            let trouble = shared.failure.trouble(&shared.options.connection, &error);
            if shared.health.fails(Part::Broker, trouble.clone()) {
                info!(%error, reason = ?trouble.reason, message = trouble.message, "the client reports an error");
            }
            None
        }
    }
}
