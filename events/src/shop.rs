//! The three events of the example shop. Field names are those of the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use crate::{
    error::{DecodeError, EncodeError},
    event::Event,
    id::EventId,
    money::Money,
};

/// The source of the shop's events.
const SOURCE: &str = "shop";

/// The version of the shop's events that is known.
const VERSION: u64 = 1;

/// An event of the shop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ShopEvent {
    /// A customer has placed an order.
    OrderPlaced(OrderPlaced),
    /// An order is on its way.
    OrderShipped(OrderShipped),
    /// A payment has succeeded or failed.
    PaymentProcessed(PaymentProcessed),
}

/// What all events of the shop carry beside their own fields, so that a consumer of plain JSON can read them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Meta {
    /// The id of the event.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The version of its format.
    pub version: u64,
}

/// A customer has placed an order. Subject `orders.placed`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OrderPlaced {
    /// What all events carry.
    #[serde(flatten)]
    pub meta: Meta,
    /// The order.
    pub order_id: String,
    /// Who placed it.
    pub customer_id: String,
    /// Where to write to.
    pub customer_email: String,
    /// What was ordered. `null`, which Go writes for a list that was never filled, is read as none.
    #[serde(deserialize_with = "null_as_empty")]
    pub items: Vec<Item>,
    /// What it costs in all.
    pub total_amount: Money,
}

/// A line of an order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Item {
    /// The product.
    pub product_id: String,
    /// Its name.
    pub product_name: String,
    /// How many.
    pub quantity: u32,
    /// What one costs.
    pub price: Money,
}

/// An order is on its way. Subject `orders.shipped`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OrderShipped {
    /// What all events carry.
    #[serde(flatten)]
    pub meta: Meta,
    /// The order.
    pub order_id: String,
    /// The carrier's number for it.
    pub tracking_number: String,
    /// Who carries it.
    pub carrier: String,
}

/// A payment has succeeded or failed. Subject `payments.processed`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PaymentProcessed {
    /// What all events carry.
    #[serde(flatten)]
    pub meta: Meta,
    /// The order that was paid for.
    pub order_id: String,
    /// The payment.
    pub payment_id: String,
    /// How much.
    pub amount: Money,
    /// How it was paid, for example `credit_card`.
    pub payment_method: String,
    /// Whether it succeeded.
    pub status: PaymentStatus,
}

/// Whether a payment succeeded.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PaymentStatus {
    /// It did.
    Success,
    /// It did not.
    Failed,
}

impl ShopEvent {
    /// The types of the shop's events.
    pub const TYPES: [&'static str; 3] = ["OrderPlaced", "OrderShipped", "PaymentProcessed"];

    /// Reads an event as one of the shop's.
    ///
    /// # Errors
    /// `Type` for another type, `Json` for data that is not JSON, `EventVersion` for a version other than 1, also where
    /// other fields do not fit, `Data` where a field is missing or wrong.
    pub fn from_event(event: &Event) -> Result<Self, DecodeError> {
        match event.event_type.as_str() {
            "OrderPlaced" => read(event, |order: &OrderPlaced| &order.meta).map(Self::OrderPlaced),
            "OrderShipped" => read(event, |order: &OrderShipped| &order.meta).map(Self::OrderShipped),
            "PaymentProcessed" => read(event, |payment: &PaymentProcessed| &payment.meta).map(Self::PaymentProcessed),
            other => Err(DecodeError::Type(other.chars().take(64).collect())),
        }
    }

    /// The event to publish.
    ///
    /// # Errors
    /// When its id cannot be one.
    pub fn to_event(&self) -> Result<Event, EncodeError> {
        let meta = self.meta();
        let data = match self {
            Self::OrderPlaced(order) => serde_json::to_vec(order),
            Self::OrderShipped(order) => serde_json::to_vec(order),
            Self::PaymentProcessed(payment) => serde_json::to_vec(payment),
        }?;
        Ok(Event {
            id: EventId::new(meta.event_id.as_str())?,
            source: SOURCE.to_owned(),
            event_type: meta.event_type.clone(),
            subject: Some(self.order_id().to_owned()),
            time: Some(meta.timestamp),
            data_content_type: Some("application/json".into()),
            extensions: BTreeMap::new(),
            data: data.into(),
        })
    }

    /// The NATS subject that events of this type are published to.
    pub fn nats_subject(&self) -> &'static str {
        match self {
            Self::OrderPlaced(_) => "orders.placed",
            Self::OrderShipped(_) => "orders.shipped",
            Self::PaymentProcessed(_) => "payments.processed",
        }
    }

    /// What all events carry.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::OrderPlaced(order) => &order.meta,
            Self::OrderShipped(order) => &order.meta,
            Self::PaymentProcessed(payment) => &payment.meta,
        }
    }

    /// The order that the event is about.
    pub fn order_id(&self) -> &str {
        match self {
            Self::OrderPlaced(order) => &order.order_id,
            Self::OrderShipped(order) => &order.order_id,
            Self::PaymentProcessed(payment) => &payment.order_id,
        }
    }
}

fn null_as_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Item>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn read<T: DeserializeOwned>(event: &Event, meta: impl Fn(&T) -> &Meta) -> Result<T, DecodeError> {
    #[derive(Deserialize)]
    struct Version {
        version: Option<u64>,
    }
    let supported = |version| {
        if version == VERSION { Ok(()) } else { Err(DecodeError::EventVersion(version)) }
    };
    match serde_json::from_slice::<T>(&event.data) {
        Ok(body) => supported(meta(&body).version).map(|()| body),
        Err(error) if !error.is_data() => Err(DecodeError::Json(error)),
        Err(error) => {
            // A newer version may well have other fields: that it is newer is the better thing to say.
            if let Ok(Version { version: Some(version) }) = serde_json::from_slice(&event.data) {
                supported(version)?;
            }
            Err(DecodeError::Data(error))
        }
    }
}
