//! The e-mails, built from the shop's events. Pure.

use std::fmt::Write as _;

use lettre::{
    Address, Message,
    message::{
        Mailbox,
        header::{ContentType, Header, HeaderName, HeaderValue},
    },
};
use millrace_events::{Event, Item, Money, OrderPlaced, OrderShipped, PaymentProcessed, PaymentStatus, ShopEvent};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The CloudEvents attribute with the customer's address, on events of a type that has no field for it.
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
    let order_id = one_line(shop_event.order_id());
    let (subject, body) = match shop_event {
        ShopEvent::OrderPlaced(order) => (format!("Your order {order_id}"), receipt(order)),
        ShopEvent::OrderShipped(order) => (format!("Your order {order_id} is on its way"), shipped(order)),
        ShopEvent::PaymentProcessed(payment) => match payment.status {
            PaymentStatus::Failed => (format!("Your payment for order {order_id} failed"), failed(payment)),
            PaymentStatus::Success => return Ok(None),
        },
    };
    let Some(address) = address_of(event, shop_event) else { return Ok(None) };
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

/// The customer's address. The formats of shipment and payment have no field for it: there it is the attribute
/// `customeremail`, or, where a producer of plain JSON adds it, the field `customer_email`.
fn address_of(event: &Event, shop_event: &ShopEvent) -> Option<String> {
    #[derive(Deserialize)]
    struct Added {
        customer_email: Option<String>,
    }
    if let ShopEvent::OrderPlaced(order) = shop_event {
        return Some(order.customer_email.clone());
    }
    let attribute = event.extensions.get(ADDRESS_ATTRIBUTE).cloned();
    attribute.or_else(|| serde_json::from_slice::<Added>(&event.data).ok()?.customer_email)
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
        writeln!(body, "{quantity} x {} at {}", one_line(product_name), amount(*price))
            .expect("writing to a String cannot fail");
    }
    body + &format!("\nTotal: {}\n", amount(order.total_amount))
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
        amount(payment.amount),
        one_line(&payment.order_id),
        one_line(&payment.payment_method)
    )
}

/// An amount as people write it, with two digits after the point at least.
fn amount(money: Money) -> String {
    let text = money.to_string();
    match text.split_once('.') {
        Some((_, digits)) if digits.len() >= 2 => text,
        Some(_) => format!("{text}0"),
        None => format!("{text}.00"),
    }
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
    use millrace_testkit::sample;

    use super::*;

    fn build_text(event: &Event) -> Option<String> {
        let message =
            build(event, &ShopEvent::from_event(event).unwrap(), &"The Shop <shop@example.com>".parse().unwrap());
        message.unwrap().map(|message| String::from_utf8(message.formatted()).unwrap().replace("\r\n", "\n"))
    }

    fn shipment(more: &str) -> Event {
        let body = format!(
            r#"{{"event_id":"9","event_type":"OrderShipped","timestamp":"2026-01-02T03:04:05Z","version":1,
            "order_id":"o-1","tracking_number":"T1","carrier":"DHL"{more}}}"#
        );
        sample::decode("orders.shipped", body)
    }

    #[test]
    fn a_receipt_names_items_and_total() {
        let text = build_text(&sample::event("1")).unwrap();

        let without_date: Vec<_> = text.lines().filter(|line| !line.starts_with("Date: ")).collect();
        insta::assert_snapshot!(without_date.join("\n"), @r#"
        Message-ID: <e3f7ba85cb4cceeef7348d951049ed71d696ed3f@millrace>
        X-Event-ID: 1
        From: "The Shop" <shop@example.com>
        To: ada@example.com
        Subject: Your order order-1
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: 7bit

        Thank you for your order order-1.

        2 x Kettle at 12.50

        Total: 25.00
        "#);
    }

    #[test]
    fn a_message_id_depends_on_source_and_id_of_the_event_alone() {
        let id = |event: &Event| {
            let text = build_text(event).unwrap();
            text.lines().find(|line| line.starts_with("Message-ID: ")).map(str::to_owned).unwrap()
        };
        let event = sample::event("1");
        let elsewhere = Event { source: "elsewhere".to_owned(), ..event.clone() };
        let later = Event { subject: Some("another".to_owned()), time: None, ..event.clone() };

        assert_eq!(id(&event), id(&later));
        assert_ne!(id(&event), id(&sample::event("2")));
        assert_ne!(id(&event), id(&elsewhere));
    }

    #[test]
    fn what_an_event_says_can_end_no_header_and_write_no_line() {
        let body = String::from_utf8(sample::order("1").to_vec())
            .unwrap()
            .replace("order-1", "1\\r\\nBcc: eve@example.com\\r\\n\\r\\nHello")
            .replace("Kettle", "Kettle\\r\\n.\\r\\nTotal: 0.00\\u0085Total: 0.00");
        let event = sample::decode("orders.placed", body);

        let text = build_text(&event).unwrap();

        let headers = text.split("\n\n").next().unwrap();
        assert!(!headers.contains("\nBcc:") && headers.contains("\nContent-Type:"), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("Total: 0.00") || line == "."), "{text}");
    }

    #[test]
    fn text_in_any_script_arrives_as_it_was() {
        let body = String::from_utf8(sample::order("1").to_vec())
            .unwrap()
            .replace("\"event_id\":\"1\"", "\"event_id\":\"заказ-1\"")
            .replace("order-1", "№ 1")
            .replace("Kettle", "Wasserkocher Größe 2 – 水壶");
        let event = sample::decode("orders.placed", body);

        let text = build_text(&event).unwrap();

        assert!(text.is_ascii(), "all of it is encoded:\n{text}");
        assert!(text.contains("Subject: Your order =?utf-8?b?"), "{text}");
    }

    #[test]
    fn an_address_that_is_none_is_refused_and_not_repeated() {
        for address in ["", "ada", "ada@example.com, eve@example.com", "ada@example.com\\r\\nBcc: eve@example.com"] {
            let body = String::from_utf8(sample::order("1").to_vec()).unwrap().replace("ada@example.com", address);
            let event = sample::decode("orders.placed", body);

            let built = build(&event, &ShopEvent::from_event(&event).unwrap(), &"shop@example.com".parse().unwrap());

            let error = built.unwrap_err().to_string();
            assert!(!error.contains("eve"), "{error}");
        }
    }

    #[test]
    fn a_shipment_is_told_where_the_event_carries_the_address() {
        assert_eq!(build_text(&shipment("")), None);

        let by_field = build_text(&shipment(r#","customer_email":"ada@example.com""#)).unwrap();
        let mut event = shipment(r#","customer_email":"old@example.com""#);
        event.extensions.insert(ADDRESS_ATTRIBUTE.to_owned(), "ada@example.com".to_owned());
        let by_attribute = build_text(&event).unwrap();

        for text in [by_field, by_attribute] {
            assert!(text.contains("To: ada@example.com") && text.contains("Tracking number: T1"), "{text}");
        }
    }

    #[test]
    fn a_payment_is_told_of_when_it_failed() {
        let payment = |status: &str| {
            let body = format!(
                r#"{{"event_id":"9","event_type":"PaymentProcessed","timestamp":"2026-01-02T03:04:05Z","version":1,
                "order_id":"o-1","payment_id":"p","amount":12.50,"payment_method":"paypal","status":"{status}",
                "customer_email":"ada@example.com"}}"#
            );
            build_text(&sample::decode("payments.processed", body))
        };

        assert_eq!(payment("SUCCESS"), None);
        assert!(payment("FAILED").unwrap().contains("Your payment of 12.50 for order o-1 by paypal failed"));
    }
}
