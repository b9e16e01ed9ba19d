//! The idempotency key of an event.

use std::fmt;

use millrace_events::Event;
use sha2::{Digest, Sha256};

/// Who consumes: the namespace and name of the `EventConsumer`.
#[derive(Clone, Debug, Eq, PartialEq)]
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

/// Identifies an event for one consumer, in a form that every store can use as a key: 64 hexadecimal digits.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key([u8; 64]);

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
    #[must_use]
    pub fn replayed(self, replays: u32) -> Self {
        if replays == 0 {
            return self;
        }
        Self(hash([&self.0, &replays.to_be_bytes()]))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The key as text, in bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Key").field(&self.as_str()).finish()
    }
}

/// The fingerprint of what an event says, to tell a repeated event from another one with the same id.
///
/// Do not change how it is made: stores hold fingerprints of events that may be delivered again.
pub fn fingerprint(event: &Event) -> String {
    let digest = hash([event.event_type.as_bytes(), event.data.as_ref()]);
    digest.iter().take(32).map(|digit| char::from(*digit)).collect()
}

/// SHA-256 over the parts, each with its length in front so that no two lists of parts look alike.
fn hash<const N: usize>(parts: [&[u8]; N]) -> [u8; 64] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    }
    let mut digits = [0; 64];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hasher.finalize()) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    digits
}

/// The hexadecimal digit of a number below 16.
fn digit(number: u8) -> u8 {
    if number < 10 { b'0'.wrapping_add(number) } else { (b'a' - 10).wrapping_add(number) }
}

#[cfg(test)]
mod tests {
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

        assert_eq!(key.as_str(), expected);
        assert_eq!(key.as_str(), KEY);
        assert_eq!(key.replayed(0).as_str(), expected);
    }

    /// Of an earlier release.
    const KEY: &str = "ed7bcf8c9533d206198dc01b94f75f1c2504906b32ba459b6f8ad866a46814ab";
}
