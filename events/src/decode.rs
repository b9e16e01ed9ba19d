//! Messages as events. Four forms are read, the first that fits: CloudEvents structured by its content type, CloudEvents
//! binary, the shop's plain body, any other JSON. A JSON body that has `specversion` is structured without saying so.
//!
//! The content type comes first because CloudEvents lets a structured message repeat its attributes as headers.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::DecodeError,
    event::{self, Event},
    headers::{Headers, UNREADABLE},
    id::EventId,
    json,
    origin::{BrokerKind, Origin},
    replay::PLACE,
    structured::Structured,
};

/// The fields of a JSON body that say which form it has, as they stand there. Each is refused when it stands there twice.
#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow)]
    specversion: Option<&'a RawValue>,
    #[serde(borrow)]
    event_id: Option<&'a RawValue>,
    #[serde(borrow)]
    event_type: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
}

/// How CloudEvents attributes stand in headers.
#[derive(Clone, Copy)]
struct Binding {
    prefix: &'static str,
    /// Values are percent-encoded, and may be quoted.
    encoded: bool,
}

impl Binding {
    fn of(broker: BrokerKind) -> Self {
        match broker {
            BrokerKind::JetStream | BrokerKind::Nats => Self { prefix: "ce-", encoded: true },
            BrokerKind::Kafka => Self { prefix: "ce_", encoded: false },
        }
    }

    /// The attribute that a header holds.
    fn attribute(self, header: &str) -> Option<&str> {
        let (prefix, name) = header.split_at_checked(self.prefix.len())?;
        prefix.eq_ignore_ascii_case(self.prefix).then_some(name)
    }

    /// The values of an attribute, as they stand there.
    fn values<'headers>(self, headers: &'headers Headers, name: &str) -> impl Iterator<Item = &'headers Bytes> {
        let is_it = move |header: &str| self.attribute(header).is_some_and(|known| known.eq_ignore_ascii_case(name));
        headers.iter().filter(move |(header, _)| is_it(header)).map(|(_, value)| value)
    }

    fn has(self, headers: &Headers, name: &str) -> bool {
        self.values(headers, name).next().is_some()
    }

    /// The first value of an attribute as text; nothing where it is none.
    fn get(self, headers: &Headers, name: &str) -> Option<String> {
        self.values(headers, name).next().and_then(|value| self.text(value))
    }

    /// An attribute that says which event this is, and so must not be there twice.
    fn identity(self, headers: &Headers, name: &'static str) -> Result<Option<String>, DecodeError> {
        if self.values(headers, name).nth(1).is_some() {
            return Err(DecodeError::Ambiguous(name));
        }
        Ok(self.get(headers, name))
    }

    fn text(self, value: &[u8]) -> Option<String> {
        let value = std::str::from_utf8(value).ok()?;
        if self.encoded { percent_decoded(value) } else { Some(value.to_owned()) }
    }
}

impl Event {
    /// Reads a message as an event.
    ///
    /// Never panics, whatever the bytes. An event without an id of its own gets that of its place in the stream, which
    /// is the same at every delivery.
    ///
    /// # Errors
    /// Says what is wrong; [`DecodeError::reason`] is the reason of the dead letter.
    pub fn decode(headers: &Headers, payload: &Bytes, origin: &Origin) -> Result<Self, DecodeError> {
        const STRUCTURED: &str = "application/cloudevents";
        if headers.get(UNREADABLE).is_some() {
            return Err(DecodeError::Headers);
        }
        let content_type = headers.get_str("content-type").and_then(|value| value.split_at_checked(STRUCTURED.len()));
        if content_type.is_some_and(|(start, _)| start.eq_ignore_ascii_case(STRUCTURED)) {
            return Structured::read(payload);
        }
        let binding = Binding::of(origin.broker);
        if binding.has(headers, "specversion") || binding.has(headers, "id") {
            return binary(binding, headers, payload);
        }
        if payload.iter().all(u8::is_ascii_whitespace) {
            return Err(DecodeError::Empty);
        }
        let Some(probe) = probe(payload)? else {
            return raw(headers, payload, origin, None);
        };
        if probe.specversion.is_some() {
            return Structured::read(payload);
        }
        match probe.event_id {
            Some(id) => plain(id, &probe, payload, origin),
            None => raw(headers, payload, origin, Some(&probe)),
        }
    }
}

/// The form-telling fields of a JSON object; `None` for other JSON.
fn probe(payload: &Bytes) -> Result<Option<Probe<'_>>, DecodeError> {
    let is_object = payload.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if is_object {
        return json::read(payload).map(Some).map_err(DecodeError::Json);
    }
    json::check(payload).map_err(DecodeError::Json)?;
    Ok(None)
}

fn binary(binding: Binding, headers: &Headers, payload: &Bytes) -> Result<Event, DecodeError> {
    let version = binding.identity(headers, "specversion")?.ok_or(DecodeError::Attribute("specversion"))?;
    check_spec_version(&version)?;
    let mut extensions = BTreeMap::new();
    for (name, value) in headers.iter() {
        let Some(name) = binding.attribute(name).map(str::to_ascii_lowercase) else { continue };
        if !event::is_attribute(&name)
            && let Some(value) = binding.text(value)
        {
            extensions.insert(name, value);
        }
    }
    let content_type = || headers.get("content-type").and_then(|value| binding.text(value));
    let data_content_type = binding.get(headers, "datacontenttype").or_else(content_type);
    if !payload.is_empty() && json::is_json(data_content_type.as_deref()) {
        json::check(payload).map_err(DecodeError::Json)?;
    }
    Ok(Event {
        id: EventId::new(binding.identity(headers, "id")?.ok_or(DecodeError::MissingId)?)?,
        source: binding.identity(headers, "source")?.ok_or(DecodeError::Attribute("source"))?,
        event_type: binding.identity(headers, "type")?.ok_or(DecodeError::Attribute("type"))?,
        subject: binding.get(headers, "subject"),
        time: binding.get(headers, "time").map(|time| time.parse().map_err(|_| DecodeError::Time)).transpose()?,
        data_content_type: data_content_type.map(Cow::Owned),
        extensions,
        data: payload.clone(),
    })
}

/// The value of an attribute as the CloudEvents bindings for HTTP and NATS ask: quotes around it are taken off with their
/// escapes, then one round of percent-decoding. `None` where that gives no UTF-8.
fn percent_decoded(value: &str) -> Option<String> {
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let value = quoted.map_or(Cow::Borrowed(value), |quoted| Cow::Owned(unescaped(quoted)));
    percent_decode_str(&value).decode_utf8().ok().map(Cow::into_owned)
}

/// The inside of a quoted string: a backslash makes the character after it stand for itself.
fn unescaped(quoted: &str) -> String {
    let mut escaped = false;
    let mut text = String::with_capacity(quoted.len());
    for character in quoted.chars() {
        escaped = character == '\\' && !escaped;
        if !escaped {
            text.push(character);
        }
    }
    text
}

/// The shop's body without CloudEvents headers.
fn plain(id: &RawValue, probe: &Probe<'_>, payload: &Bytes, origin: &Origin) -> Result<Event, DecodeError> {
    let id = text(Some(id)).ok_or(DecodeError::Attribute("event_id"))?;
    let event_type = text(probe.event_type).ok_or(DecodeError::Attribute("event_type"))?;
    Ok(Event {
        id: EventId::new(id)?,
        source: origin.source(),
        event_type: event_type.into_owned(),
        subject: None,
        time: text(probe.timestamp).and_then(|time| time.parse().ok()),
        data_content_type: Some(Cow::Borrowed("application/json")),
        extensions: BTreeMap::new(),
        data: payload.clone(),
    })
}

/// Any other JSON: an event of the type that its subject names.
fn raw(headers: &Headers, payload: &Bytes, origin: &Origin, probe: Option<&Probe<'_>>) -> Result<Event, DecodeError> {
    let message_id = match origin.broker {
        BrokerKind::JetStream | BrokerKind::Nats if headers.count("Nats-Msg-Id") > 1 => {
            return Err(DecodeError::Ambiguous("Nats-Msg-Id"));
        }
        BrokerKind::JetStream | BrokerKind::Nats => headers.get_str("Nats-Msg-Id").map(str::to_owned),
        BrokerKind::Kafka => None,
    };
    // One that was put back is known by where it first was.
    let place = || headers.get_str(PLACE).map(str::to_owned).or_else(|| origin.position_id());
    let id = message_id.or_else(place).ok_or(DecodeError::MissingId)?;
    let event_type = probe.and_then(|probe| text(probe.event_type)).unwrap_or(Cow::Borrowed(&origin.subject));
    Ok(Event {
        id: EventId::new(id)?,
        source: origin.source(),
        event_type: event_type.into_owned(),
        subject: None,
        time: None,
        data_content_type: Some(Cow::Borrowed("application/json")),
        extensions: BTreeMap::new(),
        data: payload.clone(),
    })
}

/// A value as text, where it is one.
fn text(value: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let raw = value?.get();
    let inside = raw.strip_prefix('"')?.strip_suffix('"')?;
    // What is escaped is few texts.
    if inside.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inside)) }
}

pub(crate) fn check_spec_version(version: &str) -> Result<(), DecodeError> {
    if version == "1.0" { Ok(()) } else { Err(DecodeError::SpecVersion(version.chars().take(32).collect())) }
}
