//! CloudEvents in structured mode: one JSON document with attributes and data.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    decode::check_spec_version,
    error::{DecodeError, EncodeError},
    event::Event,
    id::EventId,
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
        let document: Self = serde_json::from_slice(payload).map_err(DecodeError::Json)?;
        check_spec_version(document.specversion.as_deref().ok_or(DecodeError::Attribute("specversion"))?)?;
        let data = match (document.data, document.data_base64) {
            (Some(data), _) => Bytes::from(data.get().to_owned()),
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
            data_content_type: document.datacontenttype,
            extensions: document.extensions.into_iter().map(|(name, value)| (name, as_text(value))).collect(),
            data,
        })
    }

    pub(crate) fn write(event: &Event) -> Result<Vec<u8>, EncodeError> {
        let json = is_json(event.data_content_type.as_deref());
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
            datacontenttype: event.data_content_type.clone(),
            data,
            data_base64,
            extensions: event.extensions.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
        };
        Ok(serde_json::to_vec(&document)?)
    }
}

/// JSON is the default, and whatever ends in `json`.
fn is_json(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else { return true };
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

fn as_text(value: serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text,
        other @ (serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_)) => other.to_string(),
    }
}
