//! The place of every attempt in the trace of its event.
//!
//! Ids are worked out from the event and the number of the attempt, so that each process knows the spans that others made
//! of the same event: a retry is linked to the attempt before it, and an event that was put back to its dead letter, though
//! another process made them and nothing was stored.

use jiff::Timestamp;
use millrace_events::{Event, Headers, Origin, TraceContext, replays};
use sha2::{Digest, Sha256};

use crate::key::ConsumerName;

/// The header, and the attribute of an event, that names the span which published it.
const TRACE_PARENT: &str = "traceparent";

/// Gives every attempt its place in a trace.
#[derive(Clone, Debug)]
pub struct Tracer {
    consumer: String,
    ratio: f64,
}

impl Tracer {
    /// A tracer for one consumer. An event whose publisher has decided whether its trace is recorded keeps that decision;
    /// of the others, `ratio` (0 to 1) are recorded.
    pub fn new(consumer: &ConsumerName, ratio: f64) -> Self {
        Self { consumer: consumer.to_string(), ratio }
    }

    /// The trace of an event that came with these headers. It goes on with the span that published the event, else it is
    /// the same trace for every consumer of the event.
    pub fn trace(&self, event: &Event, headers: &Headers) -> EventTrace {
        let named = headers.get_str(TRACE_PARENT).or_else(|| event.extensions.get(TRACE_PARENT).map(String::as_str));
        let parent: Option<TraceContext> = named.and_then(|text| text.parse().ok());
        let (source, id) = (event.source.as_bytes(), event.id.as_str().as_bytes());
        let trace_id = parent.map_or_else(|| number(&[source, id]), |parent| parent.trace_id);
        EventTrace {
            trace_id,
            sampled: parent.map_or_else(|| chosen(trace_id, self.ratio), |parent| parent.sampled),
            parent: parent.map(|parent| parent.span_id),
            seed: number(&[self.consumer.as_bytes(), source, id]),
            replays: replays(headers, &self.consumer),
        }
    }
}

/// The trace of one event, as one consumer goes on with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EventTrace {
    trace_id: u128,
    sampled: bool,
    parent: Option<u64>,
    seed: u128,
    replays: u32,
}

impl EventTrace {
    /// Whether its spans are recorded.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The span that published the event.
    pub fn parent(&self) -> Option<u64> {
        self.parent
    }

    /// The span of an attempt. The first is 1.
    pub fn attempt(&self, attempt: u32) -> TraceContext {
        self.span(self.replays, attempt)
    }

    /// The span that publishes the dead letter.
    pub fn dead_letter(&self) -> TraceContext {
        self.span(self.replays, 0)
    }

    /// What an attempt follows: the one before it, and for the first of an event that was put back, its dead letter.
    pub fn cause(&self, attempt: u32) -> Option<TraceContext> {
        match attempt {
            0 | 1 => self.replays.checked_sub(1).map(|replays| self.span(replays, 0)),
            _ => Some(self.attempt(attempt.saturating_sub(1))),
        }
    }

    fn span(&self, replays: u32, attempt: u32) -> TraceContext {
        let digits = number(&[&self.seed.to_be_bytes(), &replays.to_be_bytes(), &attempt.to_be_bytes()]);
        let span_id = u64::try_from(digits >> 64).unwrap_or(u64::MAX).max(1);
        TraceContext { trace_id: self.trace_id, span_id, sampled: self.sampled }
    }
}

/// What an attempt or the publishing of a dead letter was, once it has ended.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its place.
    pub context: TraceContext,
    /// The span that it descends from.
    pub parent: Option<u64>,
    /// The span that it follows.
    pub link: Option<TraceContext>,
    /// What was done.
    pub operation: Operation,
    /// Where the event came from.
    pub origin: Origin,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// The number of the attempt.
    pub attempt: u32,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// What went wrong.
    pub error: Option<String>,
}

/// What a span stands for, in the words of OpenTelemetry's conventions for messaging.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// An attempt.
    Process,
    /// The publishing of a dead letter.
    Send,
}

/// Whether one of `ratio` of all traces is this one. Every process that goes by the same ratio decides alike.
fn chosen(trace_id: u128, ratio: f64) -> bool {
    let part = u32::try_from(trace_id & u128::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(part) < ratio * (f64::from(u32::MAX) + 1.0)
}

/// A number that is not 0, the same for the same parts.
fn number(parts: &[&[u8]]) -> u128 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte)).max(1)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millrace_events::{BrokerKind, EventId};
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn event(id: &str) -> Event {
        let origin = Origin {
            broker: BrokerKind::JetStream,
            stream: Some("ORDERS".into()),
            partition: None,
            subject: "orders.placed".into(),
            sequence: Some(1),
        };
        let mut event = Event::decode(&Headers::new(), &Bytes::from_static(b"{}"), &origin).unwrap();
        event.id = EventId::new(id).unwrap();
        event
    }

    fn tracer(name: &str, ratio: f64) -> Tracer {
        Tracer::new(&ConsumerName { namespace: "shop".to_owned(), name: name.to_owned() }, ratio)
    }

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            headers.push(*name, (*value).to_owned());
        }
        headers
    }

    #[test]
    fn a_trace_goes_on_with_the_span_that_published_the_event_and_keeps_its_decision() {
        let mut event = event("1");
        let by_header = tracer("emails", 0.0).trace(&event, &headers(&[("traceparent", PARENT)]));
        event.extensions.insert("traceparent".to_owned(), PARENT.to_owned());
        let by_attribute = tracer("emails", 0.0).trace(&event, &Headers::new());

        assert_eq!(by_header, by_attribute);
        assert_eq!(by_header.parent(), Some(0xb7ad_6b71_6920_3331));
        assert!(by_header.is_sampled(), "though no other trace is");
        assert_eq!(by_header.attempt(1).trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        let unsampled = PARENT.replace("-01", "-00");
        assert!(!tracer("emails", 1.0).trace(&event, &headers(&[("traceparent", &unsampled)])).is_sampled());
    }

    #[test]
    fn a_retry_follows_the_attempt_before_it_and_a_replay_its_dead_letter() {
        let event = event("1");
        let emails = tracer("emails", 1.0);
        let first = emails.trace(&event, &Headers::new());
        let put_back = headers(&[("millrace-consumer", "shop/emails"), ("millrace-replays", "1")]);
        let again = emails.trace(&event, &put_back);

        assert_eq!(first.cause(1), None);
        assert_eq!(first.cause(3), Some(first.attempt(2)));
        assert_eq!(again.cause(1), Some(first.dead_letter()));
        assert_eq!(again.cause(2), Some(again.attempt(1)));
        let spans = [first.attempt(1), first.attempt(2), first.dead_letter(), again.attempt(1), again.dead_letter()];
        let ids: std::collections::BTreeSet<u64> = spans.iter().map(|span| span.span_id).collect();
        assert_eq!(ids.len(), spans.len());
    }

    #[test]
    fn the_consumers_of_an_event_without_a_trace_meet_in_one_with_spans_of_their_own() {
        let event = event("1");
        let (emails, stock) = (tracer("emails", 1.0), tracer("stock", 1.0));
        let (emails, stock) = (emails.trace(&event, &Headers::new()), stock.trace(&event, &Headers::new()));

        assert_eq!(emails.attempt(1).trace_id, stock.attempt(1).trace_id);
        assert_ne!(emails.attempt(1).span_id, stock.attempt(1).span_id);
    }

    #[test]
    fn as_many_traces_are_recorded_as_asked_for() {
        let count = |ratio| {
            let tracer = tracer("emails", ratio);
            (0..2000).filter(|id| tracer.trace(&event(&id.to_string()), &Headers::new()).is_sampled()).count()
        };
        assert_eq!((count(0.0), count(1.0)), (0, 2000));
        assert!((400..600).contains(&count(0.25)), "{}", count(0.25));
    }

    proptest! {
        #[test]
        fn no_header_makes_a_trace_that_cannot_be_told(parent in any::<String>(), replays in any::<String>()) {
            let headers = headers(&[("traceparent", &parent), ("millrace-consumer", "shop/emails"), ("millrace-replays", &replays)]);
            let trace = tracer("emails", 1.0).trace(&event("1"), &headers);
            for span in [trace.attempt(1), trace.attempt(u32::MAX), trace.dead_letter()] {
                prop_assert_eq!(span.to_string().parse(), Ok(span));
            }
        }
    }
}
