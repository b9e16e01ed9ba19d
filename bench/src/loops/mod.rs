//! Hand-written loops: what the runtime is compared with.

pub(crate) mod jetstream;
pub(crate) mod kafka;

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use serde::Deserialize;

/// What a hand-written loop reads of an event.
#[derive(Deserialize)]
pub(crate) struct Order<'a> {
    pub(crate) event_id: &'a str,
    #[serde(rename = "event_type")]
    _event_type: &'a str,
    #[serde(rename = "order_id")]
    _order_id: &'a str,
    #[serde(rename = "total_amount")]
    _total_amount: f64,
}

/// The ids that were seen, as a good hand-written loop keeps them: a UUID is 128 bits, and random enough to be its own
/// hash.
#[derive(Default)]
pub(crate) struct Seen(HashSet<u128, BuildHasherDefault<Itself>>);

impl Seen {
    /// Whether this id is new.
    pub(crate) fn is_new(&mut self, id: &str) -> bool {
        uuid::Uuid::try_parse(id).is_ok_and(|id| self.0.insert(id.as_u128()))
    }
}

#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u128(&mut self, number: u128) {
        // The ids of a measurement differ in their low bits; tables look at the high ones too.
        self.0 = u64::try_from(number & u128::from(u64::MAX)).unwrap().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
