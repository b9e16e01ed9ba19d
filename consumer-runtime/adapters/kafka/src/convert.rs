//! Kafka records as deliveries.

use std::panic::{self, AssertUnwindSafe};

use bytes::Bytes;
use jiff::Timestamp;
use millrace_core::{
    delivery::{Delivery, Place, Position, Receipt},
    time::Monotonic,
};
use millrace_events::{BrokerKind, Headers, Origin};
use rdkafka::{
    Message as _,
    message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _, OwnedHeaders},
};

use crate::lanes::Lane;

/// A record of `lane` as a delivery. A record without a value is one with an empty payload: binary CloudEvents headers
/// make it an event without data, without them it is not an event.
pub(crate) fn delivery(
    message: &BorrowedMessage<'_>,
    lane: &Lane,
    epoch: u64,
    position: Position,
    received_at: Monotonic,
) -> Delivery {
    let offset = message.offset();
    Delivery {
        position,
        delivered_count: 1,
        receipt: Receipt::Place(Place { lane: lane.number, epoch, offset }),
        lane: lane.number,
        origin: Origin {
            broker: BrokerKind::Kafka,
            stream: None,
            partition: u32::try_from(lane.partition).ok(),
            subject: lane.topic.clone(),
            sequence: u64::try_from(offset).ok(),
        },
        headers: message.headers().map(headers_from).unwrap_or_default(),
        payload: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
        key: message.key().map(Bytes::copy_from_slice),
        published_at: message.timestamp().to_millis().and_then(|millis| Timestamp::from_millisecond(millis).ok()),
        received_at,
    }
}

/// The headers of a record. The library panics over a name that is not UTF-8; such a header is left out.
pub(crate) fn headers_from(headers: &BorrowedHeaders) -> Headers {
    let read = |index| {
        let Header { key, value } = headers.get(index);
        (key.to_owned(), value.map(Bytes::copy_from_slice).unwrap_or_default())
    };
    let whole = panic::catch_unwind(AssertUnwindSafe(|| (0..headers.count()).map(read).collect::<Vec<_>>()));
    let pairs = whole.unwrap_or_else(|_| {
        let readable = |index| panic::catch_unwind(AssertUnwindSafe(|| read(index))).ok();
        (0..headers.count()).filter_map(readable).collect()
    });
    let mut headers = Headers::new();
    for (name, value) in pairs {
        headers.push(name, value);
    }
    headers
}

/// Headers of a record.
pub(crate) fn headers_to(headers: &Headers) -> OwnedHeaders {
    headers
        .iter()
        // The library cannot carry such a name.
        .filter(|(name, _)| !name.contains('\0'))
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value.as_ref()) }))
}
