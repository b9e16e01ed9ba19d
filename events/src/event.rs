//! An event: a CloudEvent.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use crate::id::EventId;

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
    pub data_content_type: Option<String>,
    /// All other attributes, with lower-case names.
    pub extensions: BTreeMap<String, String>,
    /// What happened.
    pub data: Bytes,
}
