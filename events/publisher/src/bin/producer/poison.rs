//! Messages that no consumer can handle, of five kinds.

use bytes::Bytes;
use fastrand::Rng;
use millrace_events::Reason;
use serde_json::{Value, json};

/// A kind of poison.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// JSON that ends too early.
    TruncatedJson,
    /// An event without an id.
    InvalidId,
    /// An event of a version that does not exist yet.
    UnsupportedVersion,
    /// An event of a type that the shop does not know.
    UnknownType,
    /// An order whose total is no number.
    InvalidData,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::TruncatedJson, Self::InvalidId, Self::UnsupportedVersion, Self::UnknownType, Self::InvalidData];

    /// The reason that its dead letter must have.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::TruncatedJson => Reason::Undecodable,
            Self::InvalidId => Reason::InvalidId,
            Self::UnsupportedVersion => Reason::UnsupportedVersion,
            Self::UnknownType => Reason::UnsupportedType,
            Self::InvalidData => Reason::InvalidData,
        }
    }
}

/// The payload of a poisonous message: the shop's plain body with one thing wrong.
pub(crate) fn payload(kind: Kind, rng: &mut Rng) -> Bytes {
    let mut body = json!({
        "event_id": format!("poison-{:016x}", rng.u64(..)),
        "event_type": "OrderPlaced",
        "timestamp": "2026-01-01T00:00:00Z",
        "version": 1,
        "order_id": "order-x",
        "customer_id": "customer-x",
        "customer_email": "x@example.com",
        "items": [],
        "total_amount": 1.00,
    });
    let mut set = |field: &str, value: Value| {
        body.as_object_mut().map(|fields| fields.insert(field.to_owned(), value));
    };
    match kind {
        Kind::TruncatedJson => {}
        Kind::InvalidId => set("event_id", json!("")),
        Kind::UnsupportedVersion => set("version", json!(2)),
        Kind::UnknownType => set("event_type", json!("OrderEaten")),
        Kind::InvalidData => set("total_amount", json!("much")),
    }
    let mut text = body.to_string();
    if kind == Kind::TruncatedJson {
        text.truncate(text.len() / 2);
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use millrace_events::{BrokerKind, Event, Headers, Origin, ShopEvent};

    use super::*;

    #[test]
    fn every_kind_is_refused_with_its_reason() {
        let origin = Origin {
            broker: BrokerKind::JetStream,
            stream: Some("ORDERS".into()),
            partition: None,
            subject: "orders.placed".into(),
            sequence: Some(1),
        };
        for kind in Kind::ALL {
            let event = Event::decode(&Headers::new(), &payload(kind, &mut Rng::with_seed(1)), &origin);
            let refused = event.and_then(|event| ShopEvent::from_event(&event)).unwrap_err();
            assert_eq!(refused.reason(), kind.reason(), "{kind:?}");
        }
    }
}
