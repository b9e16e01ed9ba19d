//! Protects the traces of events: what was tried, in which order, and what became of it.

use std::sync::{Arc, Mutex};

use millrace_core::{
    outcome::Outcome,
    ports::Spans,
    trace::{Operation, Span, Tracer},
};
use millrace_engine::Tracing;
use millrace_events::{Headers, TraceContext};
use millrace_testkit::{handler::Step, sample};

use crate::support::{Bench, consumer};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[derive(Default)]
struct Kept(Mutex<Vec<Span>>);

impl Spans for Kept {
    fn ended(&self, span: Span) {
        self.0.lock().unwrap().push(span);
    }
}

fn traced(ratio: f64) -> (Bench, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let tracing = Tracing { tracer: Tracer::new(&consumer(), ratio), spans: Arc::clone(&kept) as Arc<dyn Spans> };
    (Bench { tracing: Some(tracing), ..Bench::jetstream() }, kept)
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in pairs {
        headers.push(*name, (*value).to_owned());
    }
    headers
}

#[tokio::test(start_paused = true)]
async fn attempts_dead_letter_and_replay_are_one_trace_in_which_each_names_what_it_follows() {
    let (bench, kept) = traced(0.0);
    let fail = || Step::End(Outcome::retryable("connection refused"));
    bench.handler.script("1", [fail(), fail(), fail()]);
    bench.broker.publish(headers(&[("traceparent", PARENT)]), sample::order("1"));
    bench.run_until_settled().await;
    let letter = bench.broker.dead_letters().pop().unwrap();
    bench.broker.publish(letter.replay_headers(), letter.payload);
    bench.run_until_settled().await;

    let spans = kept.0.lock().unwrap();
    let parent: TraceContext = PARENT.parse().unwrap();
    assert!(spans.iter().all(|span| span.context.trace_id == parent.trace_id && span.started <= span.ended));
    let told: Vec<_> = spans.iter().map(|span| (span.operation, span.attempt, span.error.as_deref())).collect();
    let refused = Some("connection refused");
    assert_eq!(
        told,
        [
            (Operation::Process, 1, refused),
            (Operation::Process, 2, refused),
            (Operation::Process, 3, refused),
            (Operation::Send, 3, None),
            (Operation::Process, 1, None),
        ]
    );
    let [first, second, third, dead, again] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((first.parent, first.link), (Some(parent.span_id), None));
    assert_eq!((second.link, third.link), (Some(first.context), Some(second.context)));
    assert_eq!(dead.parent, Some(third.context.span_id));
    assert_eq!((again.parent, again.link), (Some(parent.span_id), Some(dead.context)));
}

#[tokio::test(start_paused = true)]
async fn a_trace_that_is_not_recorded_leaves_no_span() {
    let (bench, kept) = traced(1.0);
    bench.broker.publish(headers(&[("traceparent", &PARENT.replace("-01", "-00"))]), sample::order("1"));
    bench.publish("2");

    bench.run_until_settled().await;

    assert_eq!(bench.handler.effects().len(), 2);
    let ids: Vec<String> = kept.0.lock().unwrap().iter().map(|span| span.event_id.clone()).collect();
    assert_eq!(ids, ["2"]);
}
