//! Kafka records as deliveries.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use millrace_core::{
    delivery::{Delivery, Place, Position, Receipt},
    time::Monotonic,
};
use millrace_events::{BrokerKind, Headers, Origin};
use millrace_kafka_queue::BorrowedRecord;
use rdkafka::message::{BorrowedHeaders, Header, Headers as _, OwnedHeaders};

use crate::lanes::Lane;

/// A record that was taken from a queue, and is not known to be a delivery yet.
pub(crate) struct Record {
    pub(crate) offset: i64,
    /// Bytes of all its parts.
    pub(crate) size: usize,
    headers: Headers,
    payload: Bytes,
    key: Option<Bytes>,
    published_at: Option<Timestamp>,
}

/// A record without a value is one with an empty payload: binary CloudEvents headers make it an event without data, without
/// them it is not an event.
impl From<BorrowedRecord<'_>> for Record {
    fn from(record: BorrowedRecord<'_>) -> Self {
        let (payload, key, in_record) = (record.payload().unwrap_or_default(), record.key(), record.headers());
        let lengths = in_record.clone().map(|(name, value)| (name.len(), value.len()));
        let (names, values) = lengths.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        // One copy of all values, of which each has its part.
        let mut copy = Vec::with_capacity(payload.len() + key.map_or(0, <[u8]>::len) + values);
        for part in [payload, key.unwrap_or_default()].into_iter().chain(in_record.clone().map(|(_, value)| value)) {
            copy.extend_from_slice(part);
        }
        let size = copy.len() + names;
        let mut copy = Bytes::from(copy);
        let payload = copy.split_to(payload.len());
        let key = key.map(|key| copy.split_to(key.len()));
        let mut headers = Headers::new();
        for (name, value) in in_record {
            headers.push(name, copy.split_to(value.len()));
        }
        Self {
            offset: record.offset(),
            size,
            headers,
            payload,
            key,
            published_at: record.timestamp_millis().and_then(|millis| Timestamp::from_millisecond(millis).ok()),
        }
    }
}

impl Record {
    /// The record as a delivery of `lane`.
    pub(crate) fn delivery(self, lane: &Lane, epoch: u64, position: Position, received_at: Monotonic) -> Delivery {
        Delivery {
            position,
            delivered_count: 1,
            receipt: Receipt::Place(Place { lane: lane.number, epoch, offset: self.offset }),
            lane: lane.number,
            origin: Origin {
                broker: BrokerKind::Kafka,
                stream: None,
                partition: u32::try_from(lane.partition).ok(),
                subject: Arc::clone(&lane.topic),
                sequence: u64::try_from(self.offset).ok(),
            },
            headers: self.headers,
            payload: self.payload,
            key: self.key,
            published_at: self.published_at,
            received_at,
        }
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
