//! One handler call, with its time limit and its span. A panic becomes an outcome.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, task::Poll};

use futures::FutureExt;
use millrace_core::{
    delivery::Delivery,
    outcome::Outcome,
    ports::{Context, Hold},
    trace::{EventTrace, Operation},
};
use millrace_events::Event;

use crate::{
    shared::Shared,
    traced::{Ended, Traced},
};

/// Calls the handler once.
pub(crate) async fn attempt(
    shared: &Shared,
    delivery: &Delivery,
    event: &Event,
    number: u32,
    hold: Option<&Hold>,
    trace: Option<EventTrace>,
) -> Outcome {
    // When it started by the wall is told in its span only.
    let (started, started_at) = (shared.clock.monotonic(), trace.map(|_| shared.clock.wall()));
    let context = Context { attempt: number, hold, trace: trace.map(|trace| trace.attempt(number)) };
    let mut call = pin!(AssertUnwindSafe(shared.handler.call(event, &context)).catch_unwind());
    let ended = match futures::poll!(call.as_mut()) {
        Poll::Ready(ended) => Ok(ended),
        // Only what waits needs a limit.
        Poll::Pending => tokio::time::timeout(shared.policy.attempt_timeout, call).await,
    };
    let outcome = match ended {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Outcome::ambiguous(format!("the handler panicked: {}", panic_message(panic.as_ref()))),
        Err(_) => Outcome::ambiguous(format!("no answer within {} s", shared.policy.attempt_timeout.as_secs())),
    };
    let duration = shared.clock.monotonic().since(started);
    shared.metrics.attempt_seconds.observe(duration.as_secs_f64());
    let mut window = shared.window();
    window.observe(duration);
    shared.metrics.window.set(i64::from(window.size()));
    drop(window);
    if let Some((traced, started)) = Traced::new(trace, event).zip(started_at) {
        let error = (outcome != Outcome::Done).then(|| outcome.error().to_owned());
        shared.tell(&traced, Operation::Process, delivery, Ended { attempt: number, started, error });
    }
    outcome
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
