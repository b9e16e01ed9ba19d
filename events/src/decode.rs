//! Messages as events. Four forms are read, the first that fits: CloudEvents binary, CloudEvents structured, the shop's
//! plain body, any other JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::{error::DecodeError, event::Event, headers::Headers, id::EventId, origin::Origin, structured::Structured};

/// The fields of a JSON body that say which form it has. Each is refused when it stands there twice.
#[derive(Deserialize)]
struct Probe {
    specversion: Option<serde_json::Value>,
    event_id: Option<serde_json::Value>,
    event_type: Option<serde_json::Value>,
    timestamp: Option<serde_json::Value>,
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
        if headers.get("ce-specversion").is_some() || headers.get("ce-id").is_some() {
            return binary(headers, payload);
        }
        let content_type = headers.get_str("content-type").unwrap_or_default();
        if content_type.to_ascii_lowercase().starts_with("application/cloudevents") {
            return Structured::read(payload);
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
        match &probe.event_id {
            Some(id) => plain(id, &probe, payload, origin),
            None => raw(headers, payload, origin, Some(&probe)),
        }
    }
}

/// The form-telling fields of a JSON object; `None` for other JSON.
fn probe(payload: &Bytes) -> Result<Option<Probe>, DecodeError> {
    let is_object = payload.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if is_object {
        return serde_json::from_slice(payload).map(Some).map_err(DecodeError::Json);
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(payload).map(|_| None).map_err(DecodeError::Json)
}

fn binary(headers: &Headers, payload: &Bytes) -> Result<Event, DecodeError> {
    let version = attribute(headers, "ce-specversion").ok_or(DecodeError::Attribute("specversion"))?;
    check_spec_version(&version)?;
    let mut extensions = BTreeMap::new();
    for (name, value) in headers.iter() {
        let name = name.to_ascii_lowercase();
        let Some(name) = name.strip_prefix("ce-") else { continue };
        if !CONTEXT_ATTRIBUTES.contains(&name)
            && let Some(value) = std::str::from_utf8(value).ok().and_then(percent_decoded)
        {
            extensions.insert(name.to_owned(), value);
        }
    }
    let data_content_type = attribute(headers, "ce-datacontenttype").or_else(|| attribute(headers, "content-type"));
    Ok(Event {
        id: EventId::new(attribute(headers, "ce-id").ok_or(DecodeError::MissingId)?)?,
        source: attribute(headers, "ce-source").ok_or(DecodeError::Attribute("source"))?,
        event_type: attribute(headers, "ce-type").ok_or(DecodeError::Attribute("type"))?,
        subject: attribute(headers, "ce-subject"),
        time: attribute(headers, "ce-time").map(|time| time.parse().map_err(|_| DecodeError::Time)).transpose()?,
        data_content_type,
        extensions,
        data: payload.clone(),
    })
}

/// The attributes that are fields of [`Event`].
const CONTEXT_ATTRIBUTES: [&str; 7] = ["specversion", "id", "source", "type", "subject", "time", "datacontenttype"];

fn attribute(headers: &Headers, name: &str) -> Option<String> {
    headers.get_str(name).and_then(percent_decoded)
}

/// One round of percent-decoding, as the CloudEvents bindings for HTTP and NATS ask.
fn percent_decoded(value: &str) -> Option<String> {
    percent_decode_str(value).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The shop's body without CloudEvents headers.
fn plain(id: &serde_json::Value, probe: &Probe, payload: &Bytes, origin: &Origin) -> Result<Event, DecodeError> {
    let id = id.as_str().ok_or(DecodeError::Attribute("event_id"))?;
    let event_type = text(probe.event_type.as_ref()).ok_or(DecodeError::Attribute("event_type"))?;
    Ok(Event {
        id: EventId::new(id)?,
        source: origin.source(),
        event_type,
        subject: None,
        time: text(probe.timestamp.as_ref()).and_then(|time| time.parse().ok()),
        data_content_type: Some("application/json".to_owned()),
        extensions: BTreeMap::new(),
        data: payload.clone(),
    })
}

/// Any other JSON: an event of the type that its subject names.
fn raw(headers: &Headers, payload: &Bytes, origin: &Origin, probe: Option<&Probe>) -> Result<Event, DecodeError> {
    let message_id = headers.get_str("Nats-Msg-Id").map(str::to_owned);
    let id = message_id.or_else(|| origin.position_id()).ok_or(DecodeError::MissingId)?;
    let event_type = probe.and_then(|probe| text(probe.event_type.as_ref())).unwrap_or_else(|| origin.subject.clone());
    Ok(Event {
        id: EventId::new(id)?,
        source: origin.source(),
        event_type,
        subject: None,
        time: None,
        data_content_type: Some("application/json".to_owned()),
        extensions: BTreeMap::new(),
        data: payload.clone(),
    })
}

fn text(value: Option<&serde_json::Value>) -> Option<String> {
    value.and_then(serde_json::Value::as_str).map(str::to_owned)
}

pub(crate) fn check_spec_version(version: &str) -> Result<(), DecodeError> {
    if version == "1.0" { Ok(()) } else { Err(DecodeError::SpecVersion(version.chars().take(32).collect())) }
}
