//! What the tests of this crate's own parts are made with.

use std::ops::Range;

use bytes::Bytes;
use millrace_core::{
    delivery::{Delivery, Position, Receipt},
    time::Monotonic,
};
use millrace_events::Headers;

/// Deliveries with these positions.
pub(crate) fn deliveries(positions: Range<u64>) -> Vec<Delivery> {
    let delivery = |position| Delivery {
        position: Position(position),
        delivered_count: 1,
        receipt: Receipt::Nothing,
        lane: 0,
        origin: "nats://orders.placed".parse().unwrap(),
        headers: Headers::new(),
        payload: Bytes::new(),
        key: None,
        published_at: None,
        received_at: Monotonic::default(),
    };
    positions.map(delivery).collect()
}
