//! The events of a shop, from a seed. Pure: the same seed gives the same bytes.

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use millrace_events::{
    Event, Item, Meta, Money, OrderPlaced, OrderShipped, PaymentProcessed, PaymentStatus, ShopEvent,
};
use uuid::Uuid;

use crate::poison::{self, Kind};

/// A message that is a valid event.
#[derive(Clone, Debug)]
pub(crate) struct Valid {
    pub(crate) shop_event: ShopEvent,
    pub(crate) event: Event,
}

/// One message of the stream.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// A new event.
    New(Box<Valid>),
    /// An earlier event once more, byte for byte.
    Duplicate(Box<Valid>),
    /// A message that no consumer can handle.
    Poison(Kind, bytes::Bytes),
}

/// What the stream is to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) count: u32,
    pub(crate) duplicates: u32,
    pub(crate) poison: u32,
    pub(crate) seed: u64,
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

/// The messages of a plan, in order. Poison and duplicates are spread over the stream.
pub(crate) fn messages(plan: Plan) -> Vec<Message> {
    let mut rng = Rng::with_seed(plan.seed);
    let unique = plan.count.saturating_sub(plan.duplicates).saturating_sub(plan.poison);
    let mut valid = Vec::new();
    let mut order = None;
    for index in 0..unique {
        let shop_event = next_event(&mut rng, &mut order, index);
        let mut event = shop_event.to_event().expect("generated ids are UUIDs");
        if let Some(order) = &order {
            // The address that e-mails about shipments and payments go to.
            event.extensions.insert("customeremail".to_owned(), order.customer_email.clone());
        }
        valid.push(Valid { shop_event, event });
    }
    let mut stream: Vec<Message> = Vec::new();
    let mut places = Places::new(&mut rng, plan);
    let mut new = valid.iter();
    let mut seen = 0_usize;
    while stream.len() < usize::try_from(plan.count).unwrap_or(usize::MAX) {
        let message = match places.next(seen, new.len()) {
            Place::New => match new.next() {
                Some(valid) => {
                    seen += 1;
                    Message::New(Box::new(valid.clone()))
                }
                None => break,
            },
            Place::Duplicate => {
                let distance = rng.usize(0..seen.clamp(1, 500));
                match seen.checked_sub(distance + 1).and_then(|earlier| valid.get(earlier)) {
                    Some(earlier) => Message::Duplicate(Box::new(earlier.clone())),
                    None => break,
                }
            }
            Place::Poison(number) => {
                let Some(kind) = Kind::ALL.into_iter().cycle().nth(number) else { break };
                Message::Poison(kind, poison::payload(kind, &mut rng))
            }
        };
        stream.push(message);
    }
    stream
}

/// What comes next in the stream.
enum Place {
    New,
    Duplicate,
    Poison(usize),
}

/// Deals out the places of a plan.
struct Places {
    rng: Rng,
    duplicates: usize,
    poison: usize,
    dealt_poison: usize,
}

impl Places {
    fn new(rng: &mut Rng, plan: Plan) -> Self {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Self { rng: rng.fork(), duplicates: count(plan.duplicates), poison: count(plan.poison), dealt_poison: 0 }
    }

    /// Draws from what is left, so that each kind is spread evenly. A duplicate needs something to repeat.
    fn next(&mut self, seen: usize, new_left: usize) -> Place {
        let duplicates = if seen == 0 { 0 } else { self.duplicates };
        let left = new_left + duplicates + self.poison;
        let drawn = self.rng.usize(0..left.max(1));
        if drawn < new_left || left == 0 {
            Place::New
        } else if drawn < new_left + duplicates {
            self.duplicates -= 1;
            Place::Duplicate
        } else {
            self.poison -= 1;
            self.dealt_poison += 1;
            Place::Poison(self.dealt_poison - 1)
        }
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

    fn counts(stream: &[Message]) -> (usize, usize, usize) {
        let count = |kind: fn(&Message) -> bool| stream.iter().filter(|message| kind(message)).count();
        (
            count(|message| matches!(message, Message::New(_))),
            count(|message| matches!(message, Message::Duplicate(_))),
            count(|message| matches!(message, Message::Poison(..))),
        )
    }

    #[test]
    fn a_plan_is_kept_to_the_message() {
        let stream = messages(Plan { count: 5000, duplicates: 500, poison: 20, seed: 1 });

        assert_eq!(counts(&stream), (4480, 500, 20));
    }

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_stream_and_every_duplicate_repeats_an_earlier_event(seed: u64) {
            let plan = Plan { count: 200, duplicates: 40, poison: 10, seed };
            let stream = messages(plan);
            prop_assert_eq!(format!("{stream:?}"), format!("{:?}", messages(plan)));
            let mut seen = std::collections::BTreeSet::new();
            for message in &stream {
                match message {
                    Message::New(valid) => prop_assert!(seen.insert(valid.event.id.clone())),
                    Message::Duplicate(valid) => prop_assert!(seen.contains(&valid.event.id)),
                    Message::Poison(..) => {}
                }
            }
        }
    }
}
