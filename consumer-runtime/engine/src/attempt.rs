//! One handler call, with its time limit and its span, by a worker. A panic becomes an outcome.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use futures::FutureExt;
use millrace_core::{
    delivery::Delivery,
    outcome::Outcome,
    ports::{Context, Hold},
    time::Monotonic,
    trace::{EventTrace, Operation},
};
use millrace_events::Event;
use tokio::time::{Instant, Sleep};

use crate::{
    shared::Shared,
    traced::{Ended, Traced},
};

/// What a worker keeps between attempts.
pub(crate) struct Worker {
    /// When its last step ended: the clock is read once between two steps.
    pub(crate) now: Monotonic,
    /// How long the attempts took that have not been told of.
    pub(crate) attempts: Vec<Duration>,
    /// Ends an attempt that takes too long. One for all of them: putting a timer off costs far less than a new one.
    limit: Pin<Box<Sleep>>,
}

impl Worker {
    pub(crate) fn new() -> Self {
        let limit = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { now: Monotonic::default(), attempts: Vec::new(), limit }
    }

    /// Waits for what is not ready, for at most this time; nothing when that is over.
    async fn wait<T>(&mut self, call: impl Future<Output = T>, most: Duration) -> Option<T> {
        // A time past the end of the clock is never over.
        let end = Instant::now().checked_add(most);
        if let Some(end) = end {
            self.limit.as_mut().reset(end);
        }
        tokio::select! {
            biased;
            answer = call => Some(answer),
            () = &mut self.limit, if end.is_some() => None,
        }
    }
}

/// Calls the handler once. It starts at `worker.now`.
pub(crate) async fn attempt(
    shared: &Shared,
    delivery: &Delivery,
    event: &Event,
    number: u32,
    hold: Option<&Hold>,
    trace: Option<EventTrace>,
    worker: &mut Worker,
) -> Outcome {
    // When it started by the wall is told in its span only.
    let (started, started_at) = (worker.now, trace.map(|_| shared.clock.wall()));
    let context = Context { attempt: number, hold, trace: trace.map(|trace| trace.attempt(number)) };
    let mut call = pin!(AssertUnwindSafe(shared.handler.call(event, &context)).catch_unwind());
    let ended = match futures::poll!(call.as_mut()) {
        Poll::Ready(ended) => Some(ended),
        // Only what waits needs a limit.
        Poll::Pending => worker.wait(call, shared.policy.attempt_timeout).await,
    };
    let outcome = match ended {
        Some(Ok(outcome)) => outcome,
        Some(Err(panic)) => Outcome::ambiguous(format!("the handler panicked: {}", panic_message(panic.as_ref()))),
        None => Outcome::ambiguous(format!("no answer within {} s", shared.policy.attempt_timeout.as_secs())),
    };
    worker.now = shared.clock.monotonic();
    worker.attempts.push(worker.now.since(started));
    if let Some((traced, started)) = Traced::new(trace, event).zip(started_at) {
        let is_failure = !matches!(outcome, Outcome::Done | Outcome::NotNeeded);
        let error = is_failure.then(|| outcome.error().to_owned());
        shared.tell(&traced, Operation::Process, delivery, Ended { attempt: number, started, error });
    }
    outcome
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
