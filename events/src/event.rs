//! An event: a CloudEvent.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use jiff::Timestamp;

use crate::{id::EventId, json};

/// An event: a CloudEvent 1.0.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Its id. Source and id together identify it.
    pub id: EventId,
    /// Who produced it.
    pub source: String,
    /// What kind of thing happened.
    pub event_type: String,
    /// What it happened to.
    pub subject: Option<String>,
    /// When it happened.
    pub time: Option<Timestamp>,
    /// The media type of its data.
    pub data_content_type: Option<Cow<'static, str>>,
    /// All other attributes, with lower-case names. One with the name of a field, or of `data`, is not written.
    pub extensions: BTreeMap<String, String>,
    /// What happened.
    pub data: Bytes,
}

impl Event {
    /// A field at the top of the data, where that is a JSON object: a text as it is, a number or a boolean as it is
    /// written. `None` where there is no such field, or one of another kind.
    pub fn field(&self, name: &str) -> Option<String> {
        json::field(&self.data, name)
    }
}

/// Whether a name belongs to an attribute that is a field of [`Event`], or to its data, and so to no extension.
pub(crate) fn is_attribute(name: &str) -> bool {
    const NAMES: [&str; 9] =
        ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "data_base64"];
    NAMES.contains(&name)
}
