//! Messages for tests.

use bytes::Bytes;
use millrace_events::{BrokerKind, Event, Headers, Origin};

/// The body of an order with this id, as plain JSON.
pub fn order(id: &str) -> Bytes {
    let body = serde_json::json!({
        "event_id": id,
        "event_type": "OrderPlaced",
        "timestamp": "2026-01-02T03:04:05Z",
        "version": 1,
        "order_id": format!("order-{id}"),
        "customer_id": "customer-1",
        "customer_email": "ada@example.com",
        "items": [{"product_id": "p1", "product_name": "Kettle", "quantity": 2, "price": 12.50}],
        "total_amount": 25.00,
    });
    Bytes::from(body.to_string())
}

/// The same order as a decoded event.
pub fn event(id: &str) -> Event {
    decode("orders.placed", order(id))
}

/// A plain JSON body that came on `subject`, as a decoded event.
pub fn decode(subject: &str, body: impl Into<Bytes>) -> Event {
    Event::decode(&Headers::new(), &body.into(), &origin(subject)).expect("the sample is valid")
}

/// The first message of a stream, on this subject.
pub fn origin(subject: &str) -> Origin {
    Origin {
        broker: BrokerKind::JetStream,
        stream: Some("ORDERS".into()),
        partition: None,
        subject: subject.into(),
        sequence: Some(1),
    }
}
