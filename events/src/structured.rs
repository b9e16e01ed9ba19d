//! CloudEvents in structured mode: one JSON document with attributes and data.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    decode::check_spec_version,
    error::{DecodeError, EncodeError},
    event::{Event, is_attribute},
    id::EventId,
    json,
};

/// A CloudEvent as one JSON document. The data keeps its bytes.
#[derive(Deserialize, Serialize)]
pub(crate) struct Structured {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(flatten)]
    extensions: BTreeMap<String, serde_json::Value>,
}

impl Structured {
    pub(crate) fn read(payload: &Bytes) -> Result<Event, DecodeError> {
        json::check(payload).map_err(DecodeError::Json)?;
        let document: Self = serde_json::from_slice(payload).map_err(|error| unreadable(payload, error))?;
        check_spec_version(document.specversion.as_deref().ok_or(DecodeError::Attribute("specversion"))?)?;
        let data = match (document.data, document.data_base64) {
            (Some(_), Some(_)) => return Err(DecodeError::Ambiguous("data")),
            (Some(data), None) => data_of(&data, document.datacontenttype.as_deref())?,
            (None, Some(data)) => {
                BASE64_STANDARD.decode(data).map_err(|_| DecodeError::Attribute("data_base64"))?.into()
            }
            (None, None) => Bytes::new(),
        };
        let time = document.time.map(|time| time.parse::<Timestamp>().map_err(|_| DecodeError::Time)).transpose()?;
        Ok(Event {
            id: EventId::new(document.id.ok_or(DecodeError::MissingId)?)?,
            source: document.source.ok_or(DecodeError::Attribute("source"))?,
            event_type: document.event_type.ok_or(DecodeError::Attribute("type"))?,
            subject: document.subject,
            time,
            data_content_type: document.datacontenttype.map(Cow::Owned),
            extensions: document
                .extensions
                .into_iter()
                .filter_map(|(name, value)| Some((name, as_text(value)?)))
                .collect(),
            data,
        })
    }

    pub(crate) fn write(event: &Event) -> Result<Vec<u8>, EncodeError> {
        let json = json::is_json(event.data_content_type.as_deref());
        let (data, data_base64) = match (event.data.is_empty(), json) {
            (true, _) => (None, None),
            (false, true) => (Some(serde_json::from_slice::<Box<RawValue>>(&event.data)?), None),
            (false, false) => (None, Some(BASE64_STANDARD.encode(&event.data))),
        };
        let document = Self {
            specversion: Some("1.0".to_owned()),
            id: Some(event.id.as_str().to_owned()),
            source: Some(event.source.clone()),
            event_type: Some(event.event_type.clone()),
            subject: event.subject.clone(),
            time: event.time.map(|time| time.to_string()),
            datacontenttype: event.data_content_type.clone().map(Cow::into_owned),
            data,
            data_base64,
            extensions: event
                .extensions
                .iter()
                .filter(|(name, _)| !is_attribute(name))
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
        };
        Ok(serde_json::to_vec(&document)?)
    }
}

/// Why a document cannot be read. A newer version may well have other types: that it is newer is the better thing to
/// say.
fn unreadable(payload: &Bytes, error: serde_json::Error) -> DecodeError {
    #[derive(Deserialize)]
    struct Version {
        specversion: String,
    }
    match serde_json::from_slice(payload).map(|Version { specversion }| check_spec_version(&specversion)) {
        Ok(Err(unsupported)) => unsupported,
        Ok(Ok(())) | Err(_) => DecodeError::Json(error),
    }
}

/// The data of a document: JSON as it stands there, and text out of its string.
fn data_of(data: &RawValue, content_type: Option<&str>) -> Result<Bytes, DecodeError> {
    if json::is_json(content_type) {
        return Ok(Bytes::copy_from_slice(data.get().as_bytes()));
    }
    let text: String = serde_json::from_str(data.get()).map_err(DecodeError::Json)?;
    Ok(text.into())
}

/// The value of an extension as text; `null` is as good as absent.
fn as_text(value: serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other @ (serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_)) => Some(other.to_string()),
    }
}
