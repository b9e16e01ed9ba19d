//! The events: orders of some 404 bytes, every tenth message one that came before.

/// One message in this many repeats an earlier one, where there are duplicates.
const DUPLICATE_EVERY: u64 = 10;

/// How far back a duplicate may reach, in events.
const DISTANCE_MAX: u64 = 10_000;

/// What a stream or topic holds.
#[derive(Clone, Copy, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Orders {
    /// Messages in all.
    pub(crate) messages: u64,
    /// Whether every tenth repeats an earlier one.
    pub(crate) duplicates: bool,
}

impl Orders {
    /// Different events among the messages.
    pub(crate) fn events(self) -> u64 {
        if self.duplicates { self.messages - self.messages / DUPLICATE_EVERY } else { self.messages }
    }

    /// The numbers of the events in the order in which they are published.
    pub(crate) fn numbers(self) -> impl Iterator<Item = u64> {
        let mut next = 0;
        let mut random = fastrand::Rng::with_seed(7);
        (1..=self.messages).map(move |message| {
            if self.duplicates && message.is_multiple_of(DUPLICATE_EVERY) {
                return next - 1 - random.u64(0..next.min(DISTANCE_MAX));
            }
            next += 1;
            next - 1
        })
    }
}

/// The id of an event: a UUID that ends in its number.
pub(crate) fn id(number: u64) -> String {
    format!("0190f2a5-7c3e-7d4a-9b1c-{number:012}")
}

/// The number that an id ends in.
pub(crate) fn number(id: &str) -> usize {
    id.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX)
}

/// The body of an event, as the shop publishes it.
pub(crate) fn body(number: u64) -> String {
    let (id, customer) = (id(number), number % 1_000);
    format!(
        "{{\"event_id\":\"{id}\",\"event_type\":\"OrderPlaced\",\"timestamp\":\"2026-01-02T03:04:05.123Z\",\"version\":1,\
         \"order_id\":\"order-{number:08}\",\"customer_id\":\"customer-{customer:04}\",\"customer_email\":\"ada{customer:04}@example.com\",\
         \"items\":[{{\"product_id\":\"p-kettle\",\"product_name\":\"Kettle\",\"quantity\":1,\"price\":34.95}},\
         {{\"product_id\":\"p-cup\",\"product_name\":\"Cup\",\"quantity\":4,\"price\":7.99}}],\"total_amount\":66.91}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenth_message_repeats_an_event_that_came_before_and_all_others_are_new() {
        let orders = Orders { messages: 50_000, duplicates: true };
        let mut seen = std::collections::HashSet::new();

        let repeated = orders.numbers().filter(|number| !seen.insert(*number)).count();

        assert_eq!((repeated, seen.len() as u64), (5_000, orders.events()));
        assert!((0..orders.events()).all(|number| seen.contains(&number)));
        assert_eq!(number(&id(41)), 41);
        assert_eq!(body(41).len(), 404);
    }
}
