//! Where in an event a value is found.

use serde::{Deserialize, Serialize};

/// Where in an event a value is found: exactly one of `header`, `field`, `subjectToken` and `messageKey`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Pick {
    /// In the header of this name, for example `ce-partitionkey`. Upper and lower case are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 128), regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))
    )]
    pub header: Option<String>,

    /// In the field of this name at the top of the event's data, for example `order_id`: a text, a number or a boolean.
    /// To find it the data is read once more, which the others do not need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 128)))]
    pub field: Option<String>,

    /// In the token of the subject with this number. The first is 1: that of `orders.eu.placed` with number 2 is `eu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 64)))]
    pub subject_token: Option<u32>,

    /// In the key of the record: `{}`. With `broker.kafka`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_key: Option<MessageKey>,
}

/// The key of the record. It has no settings.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MessageKey {}

impl Pick {
    /// How many of its members are set. It must be one.
    pub(crate) fn members(&self) -> usize {
        let members =
            [self.header.is_some(), self.field.is_some(), self.subject_token.is_some(), self.message_key.is_some()];
        members.into_iter().filter(|set| *set).count()
    }
}

/// Which events wait for each other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Ordering {
    /// None: events are handled as workers are free.
    #[default]
    Unordered,
    /// Those with the same `orderingKey` are handled one after the other, as their broker has them. One that fails keeps
    /// its successors waiting until it succeeds or is given up; other keys go on. Events without a key are in order among
    /// themselves.
    Key,
    /// Those of the same partition are handled one after the other. With `broker.kafka`.
    Partition,
}
