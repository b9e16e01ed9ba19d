//! From an event to the request: the CloudEvents binding for HTTP. Pure.

use bytes::Bytes;
use hyper::{
    HeaderMap,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use millrace_events::{EncodeError, Event, TraceContext};

/// Most attributes of an event that become headers. Servers take far fewer.
const ATTRIBUTES_MAX: usize = 1000;

/// Form of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ContentMode {
    /// Attributes as headers, data as body.
    Binary,
    /// One JSON document.
    Structured,
}

/// The headers and the body of a request.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An event that cannot be written as a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("failed to write the event as one JSON document: {0}")]
    Encode(#[from] EncodeError),
    #[error(
        "an attribute of the event cannot be an HTTP header: use lower-case letters and digits in its name, and printable text in a content type"
    )]
    Header,
    #[error("the event has more than {ATTRIBUTES_MAX} attributes, too many for the headers of a request")]
    TooMany,
}

/// The request that `event` is posted as, in an attempt with this span.
pub(crate) fn prepare(
    event: &Event,
    mode: ContentMode,
    attempt: Option<TraceContext>,
) -> Result<Prepared, PrepareError> {
    let (fields, body) = match mode {
        ContentMode::Binary => event.encode_binary(),
        ContentMode::Structured => event.encode_structured()?,
    };
    if fields.iter().count() > ATTRIBUTES_MAX {
        return Err(PrepareError::TooMany);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter() {
        // On HTTP the media type of the data has a header of its own.
        if name == "ce-datacontenttype" {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| PrepareError::Header)?;
        add(&mut headers, name, value)?;
    }
    if let (ContentMode::Binary, Some(content_type)) = (mode, &event.data_content_type) {
        add(&mut headers, CONTENT_TYPE, content_type.as_bytes())?;
    }
    add_trace(&mut headers, event, attempt)?;
    Ok(Prepared { headers, body })
}

/// Where the request stands in a trace: below the span of the attempt, or else, where no spans are kept, below the one that
/// the event names. The state of the trace goes with it.
fn add_trace(headers: &mut HeaderMap, event: &Event, attempt: Option<TraceContext>) -> Result<(), PrepareError> {
    let named: Option<TraceContext> = event.extensions.get("traceparent").and_then(|text| text.parse().ok());
    let Some(parent) = attempt.or(named) else { return Ok(()) };
    add(headers, HeaderName::from_static("traceparent"), parent.to_string().as_bytes())?;
    let is_one_trace = named.is_some_and(|named| named.trace_id == parent.trace_id);
    let state = event.extensions.get("tracestate").filter(|state| is_one_trace && is_trace_state(state));
    state.map_or(Ok(()), |state| add(headers, HeaderName::from_static("tracestate"), state.as_bytes()))
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) -> Result<(), PrepareError> {
    let value = HeaderValue::from_bytes(value).map_err(|_| PrepareError::Header)?;
    headers.insert(name, value);
    Ok(())
}

/// Whether it is a `tracestate` that a receiver has to take: printable, of 512 characters at most, each member `key=value`.
fn is_trace_state(text: &str) -> bool {
    let mut members =
        text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    (1..=512).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
        && members.clone().count() <= 32
        && members.all(|member| member.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millrace_events::Headers;
    use millrace_testkit::sample;
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn prepare_binary(event: &Event) -> Prepared {
        prepare(event, ContentMode::Binary, None).unwrap()
    }

    fn header<'headers>(prepared: &'headers Prepared, name: &str) -> Option<&'headers str> {
        prepared.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// What a receiver of the binary mode reads.
    fn read_back(prepared: &Prepared) -> Event {
        let mut headers = Headers::new();
        for (name, value) in &prepared.headers {
            headers.push(name.as_str(), value.as_bytes().to_vec());
        }
        let origin = sample::origin("orders.placed");
        Event::decode(&headers, &prepared.body, &origin).unwrap()
    }

    fn with(name: &str, value: &str) -> Event {
        let mut event = sample::event("1");
        event.extensions.insert(name.to_owned(), value.to_owned());
        event
    }

    #[test]
    fn binary_mode_has_the_attributes_in_headers_and_the_data_as_it_is() {
        let mut event = sample::event("a %\"é");
        event.data_content_type = Some("application/json; charset=utf-8".into());

        let prepared = prepare_binary(&event);

        assert_eq!(header(&prepared, "ce-specversion"), Some("1.0"));
        assert_eq!(header(&prepared, "ce-id"), Some("a%20%25%22%C3%A9"));
        assert_eq!(header(&prepared, "ce-type"), Some("OrderPlaced"));
        assert_eq!(header(&prepared, "content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(header(&prepared, "ce-datacontenttype"), None);
        assert_eq!(prepared.body, event.data);
    }

    #[test]
    fn structured_mode_is_one_document() {
        let event = with("partitionkey", "7");

        let prepared = prepare(&event, ContentMode::Structured, None).unwrap();

        assert_eq!(header(&prepared, "content-type"), Some("application/cloudevents+json; charset=UTF-8"));
        assert_eq!(header(&prepared, "ce-id"), None);
        assert_eq!(read_back(&prepared), event);
    }

    #[test]
    fn a_request_stands_below_the_span_of_its_attempt_or_else_below_the_one_that_its_event_names() {
        let mut event = with("traceparent", PARENT);
        event.extensions.insert("tracestate".to_owned(), "vendor=1, other=2".to_owned());
        let prepared = prepare_binary(&event);
        assert_eq!(header(&prepared, "traceparent"), Some(PARENT));
        assert_eq!(header(&prepared, "tracestate"), Some("vendor=1, other=2"));

        let attempt: TraceContext = PARENT.replace("b7ad6b7169203331", "00f067aa0ba902b7").parse().unwrap();
        let prepared = prepare(&event, ContentMode::Structured, Some(attempt)).unwrap();
        assert_eq!(header(&prepared, "traceparent"), Some(&*attempt.to_string()));
        assert_eq!(header(&prepared, "tracestate"), Some("vendor=1, other=2"));

        event.extensions.insert("tracestate".to_owned(), "vendor".to_owned());
        assert_eq!(header(&prepare_binary(&event), "tracestate"), None);
        event.extensions.insert("traceparent".to_owned(), format!("{PARENT}-x"));
        let prepared = prepare_binary(&event);
        assert_eq!((header(&prepared, "traceparent"), header(&prepared, "tracestate")), (None, None));
    }

    #[test]
    fn what_cannot_be_a_header_is_an_error_and_not_left_out() {
        for event in [
            with("a b", "1"),
            with("a\r\nhost", "1"),
            with("ключ", "1"),
            Event { data_content_type: Some("text/plain\r\nhost: evil".into()), ..sample::event("1") },
        ] {
            assert!(matches!(prepare(&event, ContentMode::Binary, None), Err(PrepareError::Header)), "{event:?}");
        }
        let many: BTreeMap<_, _> = (0..1_001).map(|number| (format!("x{number}"), String::new())).collect();
        let event = Event { extensions: many, ..sample::event("1") };
        assert!(matches!(prepare(&event, ContentMode::Binary, None), Err(PrepareError::TooMany)));
    }

    proptest! {
        #[test]
        fn every_value_of_an_attribute_arrives_as_it_was(value in "\\PC{0,40}", control in "[\r\n\t\0 -~]{0,10}") {
            let event = Event { subject: Some(format!("{value}{control}")), ..with("custom", &value) };
            prop_assert_eq!(read_back(&prepare_binary(&event)), event);
        }
    }
}
