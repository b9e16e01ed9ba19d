//! What can be wrong with a message.

use crate::{id::InvalidId, reason::Reason};

/// A message that is not an event, or not one of the shop's. None of these heals by trying again.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// There is no payload.
    #[error("the payload is empty")]
    Empty,
    /// The payload is not one JSON document.
    #[error("failed to read the payload as JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// The client of the broker cannot read the headers.
    #[error(
        "the headers cannot be read; its publisher is to write them as lines of \"name: value\" in UTF-8, with names of \
         printable ASCII"
    )]
    Headers,
    /// A CloudEvents attribute is missing, or is no text.
    #[error("the CloudEvents attribute {0:?} is missing or not text")]
    Attribute(&'static str),
    /// A header that says which event this is occurs more than once.
    #[error("the headers have {0:?} more than once")]
    Ambiguous(&'static str),
    /// The time of the event is not an RFC 3339 time.
    #[error("the CloudEvents attribute \"time\" is not an RFC 3339 time")]
    Time,
    /// The event has no id, and its origin gives none.
    #[error("the event has no id")]
    MissingId,
    /// The id cannot be used.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The CloudEvents version is not 1.x.
    #[error("CloudEvents version {0:?} is not supported; 1.0 is")]
    SpecVersion(String),
    /// The version of the shop's event is not 1.
    #[error("version {0} of the event is not supported; 1 is")]
    EventVersion(u64),
    /// The type is not one of the shop's.
    #[error("event type {0:?} is not known")]
    Type(String),
    /// The data does not fit the type.
    #[error("the data of the event is not valid: {0}")]
    Data(#[source] serde_json::Error),
}

/// An event that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Its data is not JSON, and the form needs that.
    #[error("failed to write the event as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Its id cannot be used.
    #[error(transparent)]
    Id(#[from] InvalidId),
}

impl DecodeError {
    /// The reason that the dead letter gets.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Empty | Self::Json(_) | Self::Headers | Self::Attribute(_) | Self::Ambiguous(_) | Self::Time => {
                Reason::Undecodable
            }
            Self::MissingId | Self::Id(_) => Reason::InvalidId,
            Self::SpecVersion(_) | Self::EventVersion(_) => Reason::UnsupportedVersion,
            Self::Type(_) => Reason::UnsupportedType,
            Self::Data(_) => Reason::InvalidData,
        }
    }
}
