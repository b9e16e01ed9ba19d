//! The id of an event.

use std::fmt;

/// The id of an event: 1 to 256 bytes of printable text. With the event's source it identifies the event for ever.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EventId(String);

/// A text that cannot be the id of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidId {
    /// It is empty.
    #[error("the event id is empty")]
    Empty,
    /// It is too long.
    #[error("the event id has {0} bytes; at most 256 are allowed")]
    TooLong(usize),
    /// It has a character that does not print or that changes the direction of text.
    #[error("the event id has the unprintable character U+{0:04X}")]
    Unprintable(u32),
}

impl EventId {
    const MAX_BYTES: usize = 256;

    /// Checks a text.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        if text.is_empty() {
            return Err(InvalidId::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidId::TooLong(text.len()));
        }
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Ok(Self(text));
        }
        match text.chars().find(|character| is_unprintable(*character)) {
            Some(character) => Err(InvalidId::Unprintable(u32::from(character))),
            None => Ok(Self(text)),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Control characters, and the marks with which a text can be made to look like another one.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}
