//! The idempotency key of an event.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use millrace_events::Event;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

/// Who consumes: the namespace and name of the `EventConsumer`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ConsumerName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// Identifies an event for one consumer: 32 bytes, shown as 64 hexadecimal digits, which every store can use as a key.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of `event` for `consumer`: a hash over the consumer's namespace and name and the event's source and id.
    ///
    /// Do not change how it is made: stores hold keys of events that may be delivered again.
    pub fn new(consumer: &ConsumerName, event: &Event) -> Self {
        Self(hash([
            consumer.namespace.as_bytes(),
            consumer.name.as_bytes(),
            event.source.as_bytes(),
            event.id.as_str().as_bytes(),
        ]))
    }

    /// The key of every event that has this value, where the user has chosen what events are known by.
    ///
    /// Do not change how it is made, as above. It has one part less, so it is no key of the other kind.
    pub fn of_value(consumer: &ConsumerName, value: &[u8]) -> Self {
        Self(hash([consumer.namespace.as_bytes(), consumer.name.as_bytes(), value]))
    }

    /// The key under which an event is handled that was put back for the `replays`-th time: another one each time, so that
    /// what is recorded of it does not keep it from being handled, and the same one for every copy of it.
    ///
    /// Do not change how it is made, as above: of the digits, and not of the bytes.
    #[must_use]
    pub fn replayed(self, replays: u32) -> Self {
        if replays == 0 {
            return self;
        }
        Self(hash([self.to_string().as_bytes(), &replays.to_be_bytes()]))
    }

    /// A number as a key.
    pub(crate) fn from_number(number: u128) -> Self {
        let mut bytes = [0; 32];
        let (half, _) = bytes.split_at_mut(16);
        half.copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    /// The key as bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(Hex::of(&self.0).as_str())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Key").field(&format_args!("{self}")).finish()
    }
}

impl Hash for Key {
    /// A key is a hash itself: half of it tells keys apart as well as the whole does.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (half, _) = self.0.split_at(16);
        state.write(half);
    }
}

/// The fingerprint of what an event says, to tell a repeated event from another one with the same id: at most 32 bytes of
/// text.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Fingerprint {
    /// What the text does not fill is zero.
    bytes: [u8; 32],
}

/// A text that is no fingerprint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a fingerprint has at most 32 bytes, none of them zero")]
pub struct InvalidFingerprint;

impl Fingerprint {
    /// The fingerprint of every event where the user has chosen what events are known by: he says that those with the same
    /// value are the same, whatever else they say.
    pub const OF_ANYTHING: Self = Self::literal(b"key");

    /// The fingerprint of `event`.
    ///
    /// Do not change how it is made: stores hold fingerprints of events that may be delivered again.
    pub fn of(event: &Event) -> Self {
        let digest = hash([event.event_type.as_bytes(), event.data.as_ref()]);
        let mut bytes = [0; 32];
        for (to, digit) in bytes.iter_mut().zip(Hex::of(&digest).0) {
            *to = digit;
        }
        Self { bytes }
    }

    /// A fingerprint that is written in the code: the first 32 bytes of it.
    pub const fn literal<const N: usize>(text: &[u8; N]) -> Self {
        let mut bytes = [0; 32];
        let mut rest: &[u8] = text;
        let mut to: &mut [u8] = &mut bytes;
        while let ([byte, more @ ..], Some((first, others))) = (rest, to.split_first_mut()) {
            *first = *byte;
            rest = more;
            to = others;
        }
        Self { bytes }
    }

    /// A number as a fingerprint.
    pub(crate) fn of_number(number: u64) -> Self {
        let mut bytes = [0; 32];
        for (pair, byte) in bytes.chunks_exact_mut(2).zip(number.to_be_bytes()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Self { bytes }
    }

    /// The fingerprint as bytes, with zeros behind its text.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The fingerprint as text.
    pub fn as_str(&self) -> &str {
        let text = self.bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl TryFrom<&str> for Fingerprint {
    type Error = InvalidFingerprint;

    fn try_from(text: &str) -> Result<Self, InvalidFingerprint> {
        let mut bytes = [0; 32];
        let to = bytes.get_mut(..text.len()).filter(|_| !text.contains('\0')).ok_or(InvalidFingerprint)?;
        to.copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Fingerprint").field(&self.as_str()).finish()
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(String::deserialize(deserializer)?.as_str()).map_err(D::Error::custom)
    }
}

/// SHA-256 over the parts, each with its length in front so that no two lists of parts look alike.
fn hash<const N: usize>(parts: [&[u8]; N]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// 32 bytes as hexadecimal digits.
struct Hex([u8; 64]);

impl Hex {
    fn of(bytes: &[u8; 32]) -> Self {
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        Self(digits)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The hexadecimal digit of a number below 16.
fn digit(number: u8) -> u8 {
    if number < 10 { b'0'.wrapping_add(number) } else { (b'a' - 10).wrapping_add(number) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use millrace_events::EventId;

    use super::*;

    #[test]
    fn keys_and_fingerprints_are_made_as_ever() {
        let consumer = ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() };
        let key = Key::of_value(&consumer, b"order-1");
        let expected = {
            let mut hasher = Sha256::new();
            for part in ["shop", "emails", "order-1"] {
                hasher.update(u64::try_from(part.len()).unwrap().to_be_bytes());
                hasher.update(part);
            }
            format!("{:x}", hasher.finalize())
        };

        assert_eq!(key.to_string(), expected);
        assert_eq!(key.to_string(), KEY);
        assert_eq!(key.replayed(0).to_string(), expected);
        assert_eq!(key.replayed(1).to_string(), REPLAYED);
    }

    // Of an earlier release.
    const KEY: &str = "ed7bcf8c9533d206198dc01b94f75f1c2504906b32ba459b6f8ad866a46814ab";
    const REPLAYED: &str = "9c12827b234f881fcc0fd6e5e7d2976290118fc945f784c4d6fbe8c896983a34";
    const FINGERPRINT: &str = "75d07cc63f6d5db02399a879df623c05";

    #[test]
    fn a_fingerprint_is_read_back_as_it_is_written_and_no_other_text_is_one() {
        let event = Event {
            id: EventId::new("1").unwrap(),
            source: "shop".to_owned(),
            event_type: "OrderPlaced".to_owned(),
            subject: None,
            time: None,
            data_content_type: None,
            extensions: BTreeMap::new(),
            data: Bytes::from_static(br#"{"a":1}"#),
        };
        assert_eq!(Fingerprint::of(&event).as_str(), FINGERPRINT);
        for text in ["", "a", "key", FINGERPRINT] {
            assert_eq!(Fingerprint::try_from(text).unwrap().as_str(), text);
        }
        assert_eq!(Fingerprint::try_from("key"), Ok(Fingerprint::OF_ANYTHING));
        for text in ["a\0", "\0", &"a".repeat(33)] {
            assert_eq!(Fingerprint::try_from(text), Err(InvalidFingerprint), "{text:?}");
        }
    }
}
