//! What an event is known by in a store of claims, and how that is worked out.

use std::{
    hash::{BuildHasher as _, Hash as _, Hasher, RandomState},
    sync::LazyLock,
};

use millrace_events::Event;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::key::{ConsumerName, Fingerprint, Key};

/// What an event is known by, and what tells it from another one that is known by the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Name {
    /// What it is known by.
    pub key: Key,
    /// What tells it from another one.
    pub fingerprint: Fingerprint,
}

/// How the events of one consumer are named.
#[derive(Debug)]
pub enum Naming {
    /// The same for ever and in every process: for a store that outlives this one, or is shared with others.
    Lasting(ConsumerName),
    /// Known in this process alone: for a store that ends with it. The names are made with random numbers that nobody else
    /// knows, so that nobody can make two events look alike; a hash that must hold when everything about it is known takes
    /// several times as long. The hash has begun with the consumer.
    Passing(SipHasher13),
}

/// The random numbers of this process. They are the same wherever the consumer is read in it, since its parts may share a store.
static SECRET: LazyLock<SipHasher13> = LazyLock::new(|| {
    // Its keys are the system's random numbers.
    let random = RandomState::new();
    SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1))
});

/// Those for what events say, which is most of their bytes. This hash takes less time, and less is lost where two meet:
/// an event that has the id of another and says something else would be taken for a copy.
static CONTENT_SECRET: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);

impl Naming {
    /// For the claims of `consumer` in a store that ends with this process, or in one that does not.
    pub fn new(consumer: ConsumerName, outlives_process: bool) -> Self {
        if outlives_process {
            return Self::Lasting(consumer);
        }
        let mut hasher = *SECRET;
        consumer.hash(&mut hasher);
        Self::Passing(hasher)
    }

    /// The name of an event that was put back `replays` times; `value` is what the user has chosen it to be known by, where
    /// he has.
    pub fn name(&self, event: &Event, value: Option<&[u8]>, replays: u32) -> Name {
        match (self, value) {
            (Self::Lasting(consumer), None) => {
                Name { key: Key::new(consumer, event).replayed(replays), fingerprint: Fingerprint::of(event) }
            }
            // Whoever chooses a value says that events with the same one are the same, whatever else they say.
            (Self::Lasting(consumer), Some(value)) => {
                Name { key: Key::of_value(consumer, value).replayed(replays), fingerprint: Fingerprint::OF_ANYTHING }
            }
            (&Self::Passing(hasher), None) => {
                let (source, id) = (event.source.as_bytes(), event.id.as_str().as_bytes());
                let mut content = CONTENT_SECRET.build_hasher();
                write(&mut content, [event.event_type.as_bytes(), event.data.as_ref()]);
                Name {
                    key: passing_key(hasher, [source, id], replays),
                    fingerprint: Fingerprint::of_number(content.finish()),
                }
            }
            (&Self::Passing(hasher), Some(value)) => {
                Name { key: passing_key(hasher, [value], replays), fingerprint: Fingerprint::OF_ANYTHING }
            }
        }
    }
}

fn passing_key<const N: usize>(mut hasher: SipHasher13, parts: [&[u8]; N], replays: u32) -> Key {
    hasher.write_u32(replays);
    write(&mut hasher, parts);
    Key::from_number(hasher.finish128().into())
}

/// Writes the parts, each with its length in front so that no two lists of parts look alike.
fn write<const N: usize>(hasher: &mut impl Hasher, parts: [&[u8]; N]) {
    for part in parts {
        hasher.write_usize(part.len());
        hasher.write(part);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use millrace_events::EventId;
    use proptest::prelude::*;

    use super::*;

    fn event(source: &str, id: &str, data: &str) -> Event {
        Event {
            id: EventId::new(id).unwrap(),
            source: source.to_owned(),
            event_type: "OrderPlaced".to_owned(),
            subject: None,
            time: None,
            data_content_type: None,
            extensions: BTreeMap::new(),
            data: Bytes::copy_from_slice(data.as_bytes()),
        }
    }

    fn consumer() -> ConsumerName {
        ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() }
    }

    proptest! {
        /// However an event is named: a copy has its name, and what differs in one part has another.
        #[test]
        fn two_events_have_the_same_name_exactly_when_they_are_the_same(
            one in ("[a-c]{0,2}", "[a-c]{1,2}", "[a-c]{0,2}", 0_u32..3),
            other in ("[a-c]{0,2}", "[a-c]{1,2}", "[a-c]{0,2}", 0_u32..3),
        ) {
            for naming in [Naming::new(consumer(), true), Naming::new(consumer(), false)] {
                let name = |(source, id, data, replays): &(String, String, String, u32)| naming.name(&event(source, id, data), None, *replays);
                let (name, another) = (name(&one), name(&other));
                let same_key = (&one.0, &one.1, one.3) == (&other.0, &other.1, other.3);
                prop_assert_eq!(name.key == another.key, same_key);
                prop_assert_eq!(name.fingerprint == another.fingerprint, one.2 == other.2);
            }
        }
    }

    #[test]
    fn events_with_a_chosen_value_are_the_same_whatever_else_they_say() {
        for naming in [Naming::new(consumer(), true), Naming::new(consumer(), false)] {
            let name = |id, value: &str| naming.name(&event("shop", id, id), Some(value.as_bytes()), 0);
            assert_eq!(name("1", "order-1"), name("2", "order-1"));
            assert_ne!(name("1", "order-1").key, name("1", "order-2").key);
        }
    }

    #[test]
    fn a_name_that_ends_with_its_process_is_the_same_in_all_of_it_and_another_for_another_consumer() {
        let event = event("shop", "1", "{}");
        let name = |consumer| Naming::new(consumer, false).name(&event, None, 0);
        assert_eq!(name(consumer()), name(consumer()));
        assert_ne!(name(consumer()).key, name(ConsumerName { name: "stock".to_owned(), ..consumer() }).key);
    }
}
