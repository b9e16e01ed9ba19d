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
    /// The event in binary mode for NATS and HTTP: attributes as `ce-` headers, data as payload.
    pub fn encode_binary(&self) -> (Headers, Bytes) {
        let mut headers = Headers::new();
        self.attributes(|name, value| {
            headers.push(format!("ce-{name}"), utf8_percent_encode(value, ESCAPED).to_string());
        });
        if let Some(content_type) = &self.data_content_type {
            headers.push("ce-datacontenttype", utf8_percent_encode(content_type, ESCAPED).to_string());
        }
        (headers, self.data.clone())
    }

    /// The event in binary mode for Kafka: attributes as `ce_` headers in UTF-8 as they are, data as value.
    pub fn encode_kafka(&self) -> (Headers, Bytes) {
        let mut headers = Headers::new();
        self.attributes(|name, value| headers.push(format!("ce_{name}"), value.to_owned()));
        if let Some(content_type) = &self.data_content_type {
            headers.push("content-type", content_type.clone().into_owned());
        }
        (headers, self.data.clone())
    }

    /// Gives every attribute but the media type of the data, each once.
    fn attributes(&self, mut give: impl FnMut(&str, &str)) {
        give("specversion", "1.0");
        give("id", self.id.as_str());
        give("source", &self.source);
        give("type", &self.event_type);
        if let Some(subject) = &self.subject {
            give("subject", subject);
        }
        if let Some(time) = &self.time {
            give("time", &time.to_string());
        }
        for (name, value) in self.extensions.iter().filter(|(name, _)| !is_attribute(name)) {
            give(name, value);
        }
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
