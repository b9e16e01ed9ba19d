//! What is published: orders that are known by a number, some twice, many of one customer.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::json;

/// How far back a repeated event may lie.
const REPEATED_WITHIN: u32 = 500;

/// Different products, so that not every order waits for the same row of the stock.
pub(crate) const PRODUCTS: u32 = 50;

/// Pieces that each order asks for.
pub(crate) const QUANTITY: u32 = 2;

/// One message: an event, and which copy of it this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Message {
    pub(crate) event: u32,
    pub(crate) copy: u32,
}

/// The messages of so many events. After every tenth event one of the last 500 comes once more.
pub(crate) fn messages(events: u32, seed: u64) -> impl Iterator<Item = Message> {
    let (mut rng, mut copies) = (Rng::with_seed(seed), BTreeMap::new());
    (0..events).flat_map(move |event| {
        let repeated = (event % 10 == 9).then(|| {
            let again = rng.u32(event.saturating_sub(REPEATED_WITHIN)..=event);
            let copy = copies.entry(again).or_insert(0);
            *copy += 1;
            Message { event: again, copy: *copy }
        });
        std::iter::once(Message { event, copy: 0 }).chain(repeated)
    })
}

/// The customer of an event, by whom events are ordered: one of ten events is the hot one's.
pub(crate) fn customer(event: u32) -> String {
    if event.is_multiple_of(10) { "hot".to_owned() } else { format!("customer-{}", event % 97) }
}

/// The product that an event asks for.
pub(crate) fn product(event: u32) -> String {
    format!("p{}", event % PRODUCTS)
}

/// The body of an event, with so many bytes more that mean nothing.
pub(crate) fn body(event: u32, padding: usize) -> Vec<u8> {
    let mut body = json!({
        "event_id": event.to_string(),
        "event_type": "OrderPlaced",
        "timestamp": "2026-01-02T03:04:05Z",
        "version": 1,
        "order_id": format!("order-{event}"),
        "customer_id": customer(event),
        "customer_email": "ada@example.com",
        "items": [{"product_id": product(event), "product_name": "Kettle", "quantity": QUANTITY, "price": 12.50}],
        "total_amount": 25.00,
    });
    if padding > 0 {
        body["note"] = "x".repeat(padding).into();
    }
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_ten_messages_repeats_an_earlier_event_with_a_copy_of_its_own() {
        let messages: Vec<Message> = messages(1000, 7).collect();
        assert_eq!(messages.len(), 1100);
        let mut seen = std::collections::BTreeSet::new();
        for message in &messages {
            assert!(seen.insert((message.event, message.copy)), "{message:?} comes twice");
            assert!(message.copy == 0 || seen.contains(&(message.event, 0)), "{message:?} comes before its event");
        }
    }
}
