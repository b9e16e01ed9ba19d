//! The messages of a shop, from a seed. Pure: the same seed gives the same bytes.

use std::{collections::VecDeque, sync::Arc};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use millrace_events::{
    Event, Item, Meta, Money, OrderPlaced, OrderShipped, PaymentProcessed, PaymentStatus, ShopEvent,
};
use uuid::Uuid;

use crate::poison::{self, Kind};

/// How many events back a duplicate may repeat one, and so how many are remembered.
const DUPLICATE_DISTANCE_MAX: usize = 500;

/// A message that is a valid event.
#[derive(Debug)]
pub(crate) struct Valid {
    pub(crate) shop_event: ShopEvent,
    pub(crate) event: Event,
}

/// One message of the stream.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// A new event.
    New(Arc<Valid>),
    /// An earlier event once more, byte for byte.
    Duplicate(Arc<Valid>),
    /// A message that no consumer can handle.
    Poison(Kind, bytes::Bytes),
}

/// What the stream is to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) unique: u32,
    pub(crate) duplicates: u32,
    pub(crate) poison: u32,
    pub(crate) seed: u64,
}

impl Plan {
    /// The plan for `count` messages in all; `None` when duplicates and poison leave no room for events.
    pub(crate) fn new(count: u32, duplicates_percent: u32, poison: u32, seed: u64) -> Option<Self> {
        let duplicates = u64::from(count) * u64::from(duplicates_percent) / 100;
        let duplicates = u32::try_from(duplicates).ok()?;
        let unique = count.checked_sub(duplicates)?.checked_sub(poison)?;
        (unique > 0).then_some(Self { unique, duplicates, poison, seed })
    }
}

const PRODUCTS: [(&str, &str, i64); 6] = [
    ("p-kettle", "Kettle", 3495),
    ("p-teapot", "Teapot", 2250),
    ("p-cup", "Cup", 799),
    ("p-saucer", "Saucer", 450),
    ("p-tea", "Assam, 250 g", 1120),
    ("p-sugar", "Rock sugar", 375),
];
const METHODS: [&str; 4] = ["credit_card", "paypal", "bank_transfer", "gift_card"];
const CARRIERS: [&str; 3] = ["DHL", "UPS", "Hermes"];

/// The messages of a plan, in order. Poison and duplicates are spread over the whole stream. Holds only the events that
/// a duplicate may still repeat, however long the plan is.
#[derive(Debug)]
pub(crate) struct Messages {
    rng: Rng,
    left: Plan,
    made: u32,
    poison_kinds: std::iter::Cycle<std::array::IntoIter<Kind, 5>>,
    order: Option<OrderPlaced>,
    recent: VecDeque<Arc<Valid>>,
}

impl Messages {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            rng: Rng::with_seed(plan.seed),
            left: plan,
            made: 0,
            poison_kinds: Kind::ALL.into_iter().cycle(),
            order: None,
            recent: VecDeque::new(),
        }
    }

    fn new_event(&mut self) -> Arc<Valid> {
        let shop_event = next_event(&mut self.rng, &mut self.order, self.made);
        let mut event = shop_event.to_event().expect("generated ids are UUIDs");
        if let Some(order) = &self.order {
            // The address that e-mails about shipments and payments go to.
            event.extensions.insert("customeremail".to_owned(), order.customer_email.clone());
        }
        let valid = Arc::new(Valid { shop_event, event });
        self.made += 1;
        if self.recent.len() == DUPLICATE_DISTANCE_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::clone(&valid));
        valid
    }
}

impl Iterator for Messages {
    type Item = Message;

    /// Draws from what is left, so that each kind is spread evenly. A duplicate needs something to repeat.
    fn next(&mut self) -> Option<Message> {
        let earlier = if self.recent.is_empty() { None } else { self.recent.get(self.rng.usize(0..self.recent.len())) };
        let duplicates = earlier.map_or(0, |_| u64::from(self.left.duplicates));
        let (unique, poison) = (u64::from(self.left.unique), u64::from(self.left.poison));
        let drawn = self.rng.u64(0..(unique + duplicates + poison).max(1));
        if let Some(earlier) = earlier
            && (unique..unique + duplicates).contains(&drawn)
        {
            self.left.duplicates -= 1;
            return Some(Message::Duplicate(Arc::clone(earlier)));
        }
        if drawn < unique {
            self.left.unique -= 1;
            return Some(Message::New(self.new_event()));
        }
        self.left.poison = self.left.poison.checked_sub(1)?;
        let kind = self.poison_kinds.next()?;
        Some(Message::Poison(kind, poison::payload(kind, &mut self.rng)))
    }
}

/// The next event: an order, then its payment, then its shipment.
fn next_event(rng: &mut Rng, order: &mut Option<OrderPlaced>, index: u32) -> ShopEvent {
    match (index % 3, order.as_ref()) {
        (1, Some(order)) => ShopEvent::PaymentProcessed(payment(rng, order, index)),
        (2, Some(order)) => ShopEvent::OrderShipped(OrderShipped {
            meta: meta(rng, "OrderShipped", index),
            order_id: order.order_id.clone(),
            tracking_number: format!("T{:08}", rng.u32(0..100_000_000)),
            carrier: pick(rng, &CARRIERS).to_owned(),
        }),
        _ => {
            let placed = place_order(rng, index);
            *order = Some(placed.clone());
            ShopEvent::OrderPlaced(placed)
        }
    }
}

fn place_order(rng: &mut Rng, index: u32) -> OrderPlaced {
    let customer = rng.u32(0..200);
    let mut total_cents = 0;
    let items = (0..rng.usize(1..4))
        .map(|_| {
            let (product_id, product_name, cents) = rng.choice(PRODUCTS).unwrap_or_default();
            let quantity = rng.u32(1..5);
            total_cents += cents * i64::from(quantity);
            Item {
                product_id: product_id.to_owned(),
                product_name: product_name.to_owned(),
                quantity,
                price: Money::from_cents(cents),
            }
        })
        .collect();
    OrderPlaced {
        meta: meta(rng, "OrderPlaced", index),
        order_id: format!("order-{index}"),
        customer_id: format!("customer-{customer}"),
        customer_email: format!("customer-{customer}@example.com"),
        items,
        total_amount: Money::from_cents(total_cents),
    }
}

fn payment(rng: &mut Rng, order: &OrderPlaced, index: u32) -> PaymentProcessed {
    PaymentProcessed {
        meta: meta(rng, "PaymentProcessed", index),
        order_id: order.order_id.clone(),
        payment_id: format!("payment-{index}"),
        amount: order.total_amount,
        payment_method: pick(rng, &METHODS).to_owned(),
        status: if rng.u32(0..100) < 8 { PaymentStatus::Failed } else { PaymentStatus::Success },
    }
}

fn meta(rng: &mut Rng, event_type: &str, index: u32) -> Meta {
    let start: Timestamp = Timestamp::from_second(1_767_225_600).expect("2026-01-01 is within the calendar");
    let timestamp = start.checked_add(SignedDuration::from_secs(index.into())).unwrap_or(start);
    let event_id = uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid();
    Meta { event_id: Uuid::to_string(&event_id), event_type: event_type.to_owned(), timestamp, version: 1 }
}

fn pick<'a>(rng: &mut Rng, names: &[&'a str]) -> &'a str {
    rng.choice(names).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plan_is_kept_to_the_message() {
        let stream: Vec<Message> = Messages::new(Plan::new(5000, 10, 20, 1).unwrap()).collect();

        let count = |kind: fn(&Message) -> bool| stream.iter().filter(|message| kind(message)).count();
        assert_eq!(count(|message| matches!(message, Message::New(_))), 4480);
        assert_eq!(count(|message| matches!(message, Message::Duplicate(_))), 500);
        for kind in Kind::ALL {
            let of_kind =
                stream.iter().filter(|message| matches!(message, Message::Poison(found, _) if *found == kind));
            assert_eq!(of_kind.count(), 4, "{kind:?}");
        }
        assert!(stream.len() == 5000 && Plan::new(100, 50, 50, 1).is_none());
    }

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_bytes_and_every_duplicate_repeats_an_earlier_event(seed: u64, percent in 0_u32..=50) {
            let plan = Plan::new(200, percent, 10, seed).unwrap();
            let stream: Vec<Message> = Messages::new(plan).collect();
            prop_assert_eq!(stream.len(), 200);
            let again: Vec<Message> = Messages::new(plan).collect();
            prop_assert_eq!(format!("{stream:?}"), format!("{again:?}"));
            let mut seen = std::collections::BTreeMap::new();
            for message in stream {
                match message {
                    Message::New(valid) => {
                        prop_assert!(seen.insert(valid.event.id.clone(), valid.event.encode_binary()).is_none());
                    }
                    Message::Duplicate(valid) => {
                        prop_assert_eq!(seen.get(&valid.event.id), Some(&valid.event.encode_binary()));
                    }
                    Message::Poison(..) => {}
                }
            }
        }
    }
}
