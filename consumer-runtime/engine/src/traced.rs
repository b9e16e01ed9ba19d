//! The spans that an event leaves: one for each attempt, one for its dead letter.

use std::sync::Arc;

use jiff::Timestamp;
use millrace_core::{
    delivery::Delivery,
    ports::Spans,
    trace::{EventTrace, Operation, Span, Tracer},
};
use millrace_events::Event;

use crate::shared::Shared;

/// How traces are kept.
#[derive(Clone)]
pub struct Tracing {
    /// Gives every attempt its place.
    pub tracer: Tracer,
    /// Where spans go.
    pub spans: Arc<dyn Spans>,
}

/// An event on its way through, and its trace.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    trace: EventTrace,
    event_id: String,
    event_type: String,
}

/// What a span tells of an attempt or a dead letter.
pub(crate) struct Ended {
    pub(crate) attempt: u32,
    pub(crate) started: Timestamp,
    pub(crate) error: Option<String>,
}

impl Shared {
    /// The trace of an event, where traces are kept.
    pub(crate) fn trace(&self, event: &Event, delivery: &Delivery) -> Option<EventTrace> {
        self.tracing.as_ref().map(|tracing| tracing.tracer.trace(event, &delivery.headers))
    }

    /// Tells of an attempt or a dead letter that has ended.
    pub(crate) fn tell(&self, traced: &Traced, operation: Operation, delivery: &Delivery, ended: Ended) {
        let Some(tracing) = &self.tracing else { return };
        let trace = &traced.trace;
        let (context, parent, link) = match operation {
            Operation::Process => (trace.attempt(ended.attempt), trace.parent(), trace.cause(ended.attempt)),
            Operation::Send if ended.attempt == 0 => (trace.dead_letter(), trace.parent(), trace.cause(0)),
            Operation::Send => (trace.dead_letter(), Some(trace.attempt(ended.attempt).span_id), None),
        };
        tracing.spans.ended(Span {
            context,
            parent,
            link,
            operation,
            origin: delivery.origin.clone(),
            event_id: traced.event_id.clone(),
            event_type: traced.event_type.clone(),
            attempt: ended.attempt,
            started: ended.started,
            ended: self.clock.wall(),
            error: ended.error,
        });
    }
}

impl Traced {
    /// An event whose spans are recorded; nothing for one whose spans are not.
    pub(crate) fn new(trace: Option<EventTrace>, event: &Event) -> Option<Self> {
        let trace = trace.filter(EventTrace::is_sampled)?;
        Some(Self { trace, event_id: event.id.as_str().to_owned(), event_type: event.event_type.clone() })
    }
}
