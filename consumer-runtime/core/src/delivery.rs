//! One hand-over of an event by the broker.

use bytes::Bytes;
use jiff::Timestamp;
use millrace_events::{Headers, Origin};

use crate::time::Monotonic;

/// Identifies a delivery within the source that a process reads: the stream sequence on JetStream, a running number on
/// NATS core and Kafka.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position(pub u64);

/// What a settler needs to settle a delivery. Opaque outside its adapter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Receipt {
    /// The broker forgets what it has sent: nothing is to be said.
    Nothing,
    /// The broker waits for a word on this subject.
    Reply(Bytes),
    /// The broker keeps a position for each lane, below which everything is settled.
    Place(Place),
}

/// A place in a lane, as long as the lane is assigned to this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// The lane: the adapter's own index of a topic-partition.
    pub lane: u32,
    /// Which assignment of the lane this belongs to. It grows with each, so a word from an earlier one is recognised.
    pub epoch: u64,
    /// The offset in the lane.
    pub offset: i64,
}

/// One hand-over of an event by the broker.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its place in the source.
    pub position: Position,
    /// How often the broker says it has handed this event over, this time included. A count of 1 does not prove that
    /// it is the first time: a server may forget.
    pub delivered_count: u32,
    /// What settles it.
    pub receipt: Receipt,
    /// The stream of deliveries that it belongs to, in which the broker keeps an order: the adapter's own index of a
    /// topic-partition on Kafka, 0 where there is one stream.
    pub lane: u32,
    /// Where it comes from, for dead letters and logs.
    pub origin: Origin,
    /// Its headers, as received.
    pub headers: Headers,
    /// Its payload, as received.
    pub payload: Bytes,
    /// The key that its publisher gave it, on brokers that have one.
    pub key: Option<Bytes>,
    /// When the broker took it in, by the broker's clock; `None` where it does not say.
    pub published_at: Option<Timestamp>,
    /// When this process received it.
    pub received_at: Monotonic,
}

impl Delivery {
    /// Bytes that this delivery counts for in the window.
    pub fn size(&self) -> usize {
        let key = self.key.as_ref().map_or(0, Bytes::len);
        self.headers.iter().fold(self.payload.len().saturating_add(key), |size, (name, value)| {
            size.saturating_add(name.len()).saturating_add(value.len())
        })
    }
}
