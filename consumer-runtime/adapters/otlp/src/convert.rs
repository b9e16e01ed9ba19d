//! From a span to OpenTelemetry's, with the names of its conventions for messaging and CloudEvents.

use std::borrow::Cow;

use millrace_core::trace::{Operation, Span};
use millrace_events::{BrokerKind, Origin, TraceContext};
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// The span as the exporter takes it.
pub(crate) fn span_data(span: Span, consumer: &str, scope: &InstrumentationScope) -> SpanData {
    let mut links = SpanLinks::default();
    links.links.extend(span.link.map(|link| Link::new(context(link, true), Vec::new(), 0)));
    SpanData {
        span_context: context(span.context, false),
        parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.to_be_bytes())),
        parent_span_is_remote: span.operation == Operation::Process,
        span_kind: match span.operation {
            Operation::Process => SpanKind::Consumer,
            Operation::Send => SpanKind::Producer,
        },
        name: name(span.operation, &span.origin),
        start_time: span.started.into(),
        end_time: span.ended.into(),
        attributes: attributes(&span, consumer),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn context(context: TraceContext, is_remote: bool) -> SpanContext {
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let trace_id = TraceId::from_bytes(context.trace_id.to_be_bytes());
    let span_id = SpanId::from_bytes(context.span_id.to_be_bytes());
    SpanContext::new(trace_id, span_id, flags, is_remote, TraceState::default())
}

/// The name, which is to be one of few: a stream has many subjects.
fn name(operation: Operation, origin: &Origin) -> Cow<'static, str> {
    match operation {
        Operation::Process => format!("process {}", origin.stream.as_deref().unwrap_or(&origin.subject)).into(),
        Operation::Send => "send dead letter".into(),
    }
}

fn attributes(span: &Span, consumer: &str) -> Vec<KeyValue> {
    let (system, place) = match span.origin.broker {
        BrokerKind::JetStream => ("nats", "messaging.nats.stream.sequence"),
        BrokerKind::Nats => ("nats", "messaging.nats.sequence"),
        BrokerKind::Kafka => ("kafka", "messaging.kafka.offset"),
    };
    let operation = match span.operation {
        Operation::Process => "process",
        Operation::Send => "send",
    };
    let number = |name, value: u64| KeyValue::new(name, i64::try_from(value).unwrap_or(i64::MAX));
    let mut attributes = vec![
        KeyValue::new("messaging.system", system),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.operation.type", operation),
        KeyValue::new("messaging.destination.name", span.origin.subject.to_string()),
        KeyValue::new("messaging.message.id", span.event_id.clone()),
        KeyValue::new("cloudevents.event_id", span.event_id.clone()),
        KeyValue::new("cloudevents.event_type", span.event_type.clone()),
        KeyValue::new("millrace.consumer", consumer.to_owned()),
        number("millrace.attempt", span.attempt.into()),
    ];
    attributes.extend(span.origin.sequence.map(|sequence| number(place, sequence)));
    let partition = span.origin.partition.map(|partition| partition.to_string());
    attributes.extend(partition.map(|partition| KeyValue::new("messaging.destination.partition.id", partition)));
    attributes
}
