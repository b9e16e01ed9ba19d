//! The headers of a message.

use bytes::Bytes;

/// Says that the headers of a message cannot be read, and holds what stands there, in base64. An adapter puts it in the
/// place of all others.
pub const UNREADABLE: &str = "millrace-unreadable";

/// The headers of a message, in order. A name may occur more than once; values are bytes and may be anything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Headers(Vec<(String, Bytes)>);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// The first value of a header. Names are compared without regard to case, which NATS itself does not do and the
    /// CloudEvents binding asks for.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The first value of a header, if it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// How often a header is there.
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count()
    }

    /// All headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that these headers take on a NATS connection.
    pub fn wire_size(&self) -> usize {
        const FRAME: usize = "NATS/1.0\r\n\r\n".len();
        const SEPARATORS: usize = ": \r\n".len();
        self.iter().fold(FRAME, |size, (name, value)| {
            size.saturating_add(name.len()).saturating_add(value.len()).saturating_add(SEPARATORS)
        })
    }
}
