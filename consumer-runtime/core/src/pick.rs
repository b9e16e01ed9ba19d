//! Values taken from an event: what keeps it in order, and what it is known by.

use std::borrow::Cow;

use millrace_events::Event;

use crate::delivery::Delivery;

/// Where in an event a value is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Pick {
    /// In the header of this name.
    Header(String),
    /// In the field of this name at the top of the data, which must be a JSON object: a text, a number or a boolean.
    Field(String),
    /// In the token of its subject with this number; the first is 1.
    SubjectToken(usize),
    /// In the key that its publisher gave it.
    MessageKey,
}

impl Pick {
    /// The value in `event`, which came as `delivery`; nothing where it is missing or empty.
    pub fn from_event<'a>(&self, delivery: &'a Delivery, event: &Event) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Field(name) => {
                event.field(name).filter(|value| !value.is_empty()).map(|value| Cow::Owned(value.into_bytes()))
            }
            Self::Header(_) | Self::SubjectToken(_) | Self::MessageKey => self.from_delivery(delivery),
        }
    }

    /// The value in an event that has not been decoded; nothing where it is missing, empty, or in data that cannot be
    /// decoded.
    pub fn from_delivery<'a>(&self, delivery: &'a Delivery) -> Option<Cow<'a, [u8]>> {
        let value = match self {
            Self::Header(name) => Cow::Borrowed(delivery.headers.get(name)?.as_ref()),
            Self::Field(_) => {
                let event = Event::decode(&delivery.headers, &delivery.payload, &delivery.origin).ok()?;
                return self.from_event(delivery, &event);
            }
            Self::SubjectToken(number) => {
                let token = delivery.origin.subject.split('.').nth(number.checked_sub(1)?)?;
                Cow::Borrowed(token.as_bytes())
            }
            Self::MessageKey => Cow::Borrowed(delivery.key.as_deref()?),
        };
        Some(value).filter(|value: &Cow<'_, [u8]>| !value.is_empty())
    }
}
