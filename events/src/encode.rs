//! Events as messages.

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{
    error::EncodeError,
    event::{Event, is_attribute},
    headers::Headers,
    structured::Structured,
};

/// What the CloudEvents bindings for HTTP and NATS percent-encode in an attribute, beside all that is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

impl Event {
    /// The event in binary mode: attributes as `ce-` headers, data as payload.
    pub fn encode_binary(&self) -> (Headers, Bytes) {
        let mut headers = Headers::new();
        let mut attribute = |name: &str, value: &str| {
            headers.push(format!("ce-{name}"), utf8_percent_encode(value, ESCAPED).to_string());
        };
        attribute("specversion", "1.0");
        attribute("id", self.id.as_str());
        attribute("source", &self.source);
        attribute("type", &self.event_type);
        if let Some(subject) = &self.subject {
            attribute("subject", subject);
        }
        if let Some(time) = &self.time {
            attribute("time", &time.to_string());
        }
        if let Some(content_type) = &self.data_content_type {
            attribute("datacontenttype", content_type);
        }
        for (name, value) in self.extensions.iter().filter(|(name, _)| !is_attribute(name)) {
            attribute(name, value);
        }
        (headers, self.data.clone())
    }

    /// The event in structured mode: one JSON document.
    ///
    /// # Errors
    /// When the data says that it is JSON and is not.
    pub fn encode_structured(&self) -> Result<(Headers, Bytes), EncodeError> {
        let mut headers = Headers::new();
        headers.push("Content-Type", "application/cloudevents+json; charset=UTF-8");
        Ok((headers, Structured::write(self)?.into()))
    }
}
