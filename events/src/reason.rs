//! Why an event was given up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why an event was given up. A closed set: it is a metric's label, a dead letter's header and a condition's word.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Reason {
    /// It is not JSON, or not a CloudEvent though it says so.
    Undecodable,
    /// Its id is missing, empty, too long or unprintable.
    InvalidId,
    /// Its format has a version that is not known.
    UnsupportedVersion,
    /// The handler does not know its type.
    UnsupportedType,
    /// Its data lacks a field, or a field has a wrong value.
    InvalidData,
    /// Another event with the same id and other content was seen before.
    IdempotencyConflict,
    /// Whoever the handler asked refused it for good.
    HandlerRejected,
    /// All its attempts failed.
    RetriesExhausted,
    /// It is larger than the limit.
    TooLarge,
    /// It was older than allowed before it could be handled.
    Expired,
}

/// A text that is not a reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a reason")]
pub struct InvalidReason;

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Undecodable,
        Self::InvalidId,
        Self::UnsupportedVersion,
        Self::UnsupportedType,
        Self::InvalidData,
        Self::IdempotencyConflict,
        Self::HandlerRejected,
        Self::RetriesExhausted,
        Self::TooLarge,
        Self::Expired,
    ];

    /// The reason as it stands in headers and labels. Stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "Undecodable",
            Self::InvalidId => "InvalidId",
            Self::UnsupportedVersion => "UnsupportedVersion",
            Self::UnsupportedType => "UnsupportedType",
            Self::InvalidData => "InvalidData",
            Self::IdempotencyConflict => "IdempotencyConflict",
            Self::HandlerRejected => "HandlerRejected",
            Self::RetriesExhausted => "RetriesExhausted",
            Self::TooLarge => "TooLarge",
            Self::Expired => "Expired",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = InvalidReason;

    fn from_str(text: &str) -> Result<Self, InvalidReason> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or(InvalidReason)
    }
}
