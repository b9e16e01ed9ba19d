//! The e-mails, built from the shop's events. Pure.

use std::fmt::Write as _;

use lettre::{
    Address, Message,
    message::{
        Mailbox,
        header::{ContentType, Header, HeaderName, HeaderValue},
    },
};
use millrace_events::{Event, Item, OrderPlaced, OrderShipped, PaymentProcessed, PaymentStatus, ShopEvent};
use sha2::{Digest, Sha256};

/// The CloudEvents attribute with the customer's address, on events whose data has none.
const ADDRESS_ATTRIBUTE: &str = "customeremail";

/// An e-mail that cannot be built from an event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the customer's e-mail address is not valid: {0}")]
    Address(#[from] lettre::address::AddressError),
    #[error("failed to build the e-mail: {0}")]
    Build(#[from] lettre::error::Error),
}

/// The e-mail that an event asks for; nothing when it asks for none or no address is known.
pub(crate) fn build(event: &Event, shop_event: &ShopEvent, from: &Mailbox) -> Result<Option<Message>, MessageError> {
    let by_attribute = event.extensions.get(ADDRESS_ATTRIBUTE).map(String::as_str);
    let (address, subject, body) = match shop_event {
        ShopEvent::OrderPlaced(order) => {
            (Some(order.customer_email.as_str()), format!("Your order {}", one_line(&order.order_id)), receipt(order))
        }
        ShopEvent::OrderShipped(order) => {
            (by_attribute, format!("Your order {} is on its way", one_line(&order.order_id)), shipped(order))
        }
        ShopEvent::PaymentProcessed(payment) if payment.status == PaymentStatus::Failed => {
            (by_attribute, format!("Your payment for order {} failed", one_line(&payment.order_id)), failed(payment))
        }
        ShopEvent::PaymentProcessed(_) => return Ok(None),
    };
    let Some(address) = address else { return Ok(None) };
    let message = Message::builder()
        .message_id(Some(message_id(event)))
        .header(EventIdHeader(event.id.as_str().to_owned()))
        .from(from.clone())
        .to(Mailbox::new(None, address.parse::<Address>()?))
        .subject(subject)
        .header(ContentType::TEXT_PLAIN)
        .body(body)?;
    Ok(Some(message))
}

/// The `Message-ID` of an event's e-mail: the same at every attempt. Do not change how it is made.
fn message_id(event: &Event) -> String {
    let mut hasher = Sha256::new();
    hasher.update(&event.source);
    hasher.update([0]);
    hasher.update(event.id.as_str());
    let mut digest = format!("{:x}", hasher.finalize());
    digest.truncate(40);
    format!("<{digest}@millrace>")
}

fn receipt(order: &OrderPlaced) -> String {
    let mut body = format!("Thank you for your order {}.\n\n", one_line(&order.order_id));
    for Item { product_name, quantity, price, .. } in &order.items {
        writeln!(body, "{quantity} x {} at {price}", one_line(product_name)).expect("writing to a String cannot fail");
    }
    body + &format!("\nTotal: {}\n", order.total_amount)
}

fn shipped(order: &OrderShipped) -> String {
    format!(
        "Your order {} is on its way with {}.\n\nTracking number: {}\n",
        one_line(&order.order_id),
        one_line(&order.carrier),
        one_line(&order.tracking_number)
    )
}

fn failed(payment: &PaymentProcessed) -> String {
    format!(
        "Your payment of {} for order {} by {} failed. Please try again.\n",
        payment.amount,
        one_line(&payment.order_id),
        one_line(&payment.payment_method)
    )
}

/// A text of an event within one line: it must not be able to end a header or to write lines of its own.
fn one_line(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// `X-Event-ID`: the id of the event that an e-mail is about.
#[derive(Clone)]
struct EventIdHeader(String);

impl Header for EventIdHeader {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("X-Event-ID")
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self(text.to_owned()))
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millrace_events::{BrokerKind, Headers, Origin};
    use millrace_testkit::sample;

    use super::*;

    fn build_text(event: &Event) -> Option<String> {
        let message =
            build(event, &ShopEvent::from_event(event).unwrap(), &"shop@example.com".parse().unwrap()).unwrap();
        message.map(|message| String::from_utf8(message.formatted()).unwrap())
    }

    #[test]
    fn a_receipt_names_items_and_total_and_its_message_id_depends_on_the_event_alone() {
        let text = build_text(&sample::event("1")).unwrap();

        for line in
            ["To: ada@example.com", "Subject: Your order order-1", "X-Event-ID: 1", "2 x Kettle at 12.5", "Total: 25.0"]
        {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let id = |text: &str| text.lines().find(|line| line.starts_with("Message-ID: ")).map(str::to_owned).unwrap();
        assert_eq!(id(&text), id(&build_text(&sample::event("1")).unwrap()));
        assert_ne!(id(&text), id(&build_text(&sample::event("2")).unwrap()));
    }

    #[test]
    fn what_an_event_says_can_end_no_header_and_write_no_line() {
        let body = String::from_utf8(sample::order("1").to_vec())
            .unwrap()
            .replace("order-1", "1\\r\\nBcc: eve@example.com")
            .replace("Kettle", "Kettle\\nTotal: 0.00");
        let origin =
            Origin { broker: BrokerKind::Nats, stream: None, subject: "orders.placed".to_owned(), sequence: None };
        let event = Event::decode(&Headers::new(), &Bytes::from(body), &origin).unwrap();

        let text = build_text(&event).unwrap();

        assert!(!text.lines().any(|line| line.starts_with("Bcc:") || line.starts_with("Total: 0.00")), "{text}");
    }

    #[test]
    fn a_shipment_is_told_where_the_event_carries_the_address() {
        let body = br#"{"event_id":"9","event_type":"OrderShipped","timestamp":"2026-01-02T03:04:05Z","version":1,
            "order_id":"o-1","tracking_number":"T1","carrier":"DHL"}"#;
        let origin =
            Origin { broker: BrokerKind::Nats, stream: None, subject: "orders.shipped".to_owned(), sequence: None };
        let mut event = Event::decode(&Headers::new(), &Bytes::from_static(body), &origin).unwrap();
        assert_eq!(build_text(&event), None);

        event.extensions.insert(ADDRESS_ATTRIBUTE.to_owned(), "ada@example.com".to_owned());

        assert!(build_text(&event).unwrap().contains("Tracking number: T1"));
    }
}
