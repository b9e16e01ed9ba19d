//! Protects the wire contract: every form is read and written as the golden files say, whatever is written can be read
//! back, and no bytes make the reader panic.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_events::{
    BrokerKind, DeadLetter, Event, EventId, Headers, Item, Meta, Money, OrderPlaced, Origin, Reason, ShopEvent,
    replays, taken_out, taken_out_mark,
};
use proptest::prelude::*;

const PLAIN: &[u8] = include_bytes!("golden/order-placed.json");
const BINARY: &str = include_str!("golden/order-placed.binary.txt");
const KAFKA: &str = include_str!("golden/order-placed.kafka.txt");
const STRUCTURED: &[u8] = include_bytes!("golden/order-placed.structured.json");
const DEAD_LETTER: &str = include_str!("golden/dead-letter.txt");

fn origin() -> Origin {
    Origin {
        broker: BrokerKind::JetStream,
        stream: Some("ORDERS".into()),
        partition: None,
        subject: "orders.placed".into(),
        sequence: Some(42),
    }
}

fn order() -> ShopEvent {
    ShopEvent::OrderPlaced(OrderPlaced {
        meta: Meta {
            event_id: "0191b6a0-0000-7000-8000-000000000001".to_owned(),
            event_type: "OrderPlaced".to_owned(),
            timestamp: "2026-01-02T03:04:05.123Z".parse().unwrap(),
            version: 1,
        },
        order_id: "order-1".to_owned(),
        customer_id: "customer-7".to_owned(),
        customer_email: "ada@example.com".to_owned(),
        items: vec![Item {
            product_id: "p-3".to_owned(),
            product_name: "Käse & \"Brot\"".to_owned(),
            quantity: 3,
            price: "19.90".parse().unwrap(),
        }],
        total_amount: "59.70".parse().unwrap(),
    })
}

/// `name: value` lines, an empty line, the payload.
fn as_text((headers, payload): (Headers, Bytes)) -> String {
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect();
    lines.extend([String::new(), String::from_utf8_lossy(&payload).into_owned(), String::new()]);
    lines.join("\n")
}

fn from_text(text: &str) -> (Headers, Bytes) {
    let (head, payload) = text.split_once("\n\n").unwrap();
    let mut headers = Headers::new();
    for line in head.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        headers.push(name, value.to_owned());
    }
    (headers, Bytes::from(payload.trim_end().to_owned()))
}

fn trimmed(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes.trim_ascii_end())
}

fn decode(headers: &Headers, payload: &Bytes) -> Event {
    Event::decode(headers, payload, &origin()).unwrap()
}

fn reason(payload: &[u8]) -> Reason {
    let decoded = Event::decode(&Headers::new(), &Bytes::copy_from_slice(payload), &origin());
    decoded.and_then(|event| ShopEvent::from_event(&event).map(drop)).unwrap_err().reason()
}

#[test]
fn the_shops_event_is_written_and_read_in_every_form_as_the_golden_files_say() {
    let event = order().to_event().unwrap();

    assert_eq!(event.data, trimmed(PLAIN));
    assert_eq!(as_text(event.encode_binary()), BINARY);
    assert_eq!(event.encode_structured().unwrap().1, trimmed(STRUCTURED));

    let (headers, payload) = from_text(BINARY);
    assert_eq!(decode(&headers, &payload), event);
    assert_eq!(
        decode(&Headers::new(), &trimmed(STRUCTURED)),
        event,
        "structured without a header, as some publishers do"
    );
    let plain = decode(&Headers::new(), &trimmed(PLAIN));
    assert_eq!((plain.id.as_str(), plain.source.as_str()), (event.id.as_str(), "jetstream://ORDERS"));
    for event in [event, plain] {
        assert_eq!(ShopEvent::from_event(&event).unwrap(), order());
    }
}

#[test]
fn a_plain_body_of_another_writer_is_read_and_its_unknown_fields_are_ignored() {
    let body = br#"{"event_id":"7","event_type":"PaymentProcessed","timestamp":"2026-01-02T03:04:05.1+01:00","version":1,
        "order_id":"o","payment_id":"p","amount":"12.30","payment_method":"credit_card","status":"FAILED","new":{"a":[1]}}"#;

    let event = decode(&Headers::new(), &Bytes::from_static(body));

    let ShopEvent::PaymentProcessed(payment) = ShopEvent::from_event(&event).unwrap() else { panic!() };
    assert_eq!(payment.amount, "12.30".parse::<Money>().unwrap());
}

#[test]
fn any_other_json_gets_the_id_of_its_message_or_of_its_place() {
    let payload = Bytes::from_static(b"[1,2]");
    let mut headers = Headers::new();
    assert_eq!(decode(&headers, &payload).id.as_str(), "ORDERS:42");

    headers.push("nats-msg-id", "abc");

    assert_eq!(decode(&headers, &payload).id.as_str(), "abc");
    assert_eq!(decode(&headers, &payload).event_type, "orders.placed");
}

#[test]
fn bad_messages_get_their_reason() {
    let valid = String::from_utf8(PLAIN.to_vec()).unwrap();
    let deep = "[".repeat(100_000);
    let deep_and_whole = format!("{{\"event_id\":\"1\",\"x\":{deep}{}}}", "]".repeat(100_000));
    let long_id = "x".repeat(257);
    for (payload, expected) in [
        ("", Reason::Undecodable),
        (" \n", Reason::Undecodable),
        (&valid[..valid.len() / 2], Reason::Undecodable),
        (&format!("{valid}{valid}"), Reason::Undecodable),
        (&deep, Reason::Undecodable),
        (&deep_and_whole, Reason::Undecodable),
        (r#"{"specversion":"1.0","id":"1","id":"2","source":"s","type":"t"}"#, Reason::Undecodable),
        (
            r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":"MQ=="}"#,
            Reason::Undecodable,
        ),
        (r#"{"specversion":"2.0","id":1,"source":["s"]}"#, Reason::UnsupportedVersion),
        (r#"{"event_id":"1","event_id":"2","event_type":"OrderPlaced"}"#, Reason::Undecodable),
        (
            &valid.replace("\"event_id\":\"0191b6a0-0000-7000-8000-000000000001\"", "\"event_id\":\"\""),
            Reason::InvalidId,
        ),
        (&valid.replace("0191b6a0", &long_id), Reason::InvalidId),
        (&valid.replace("0191b6a0", "\\u202E"), Reason::InvalidId),
        (&valid.replace("\"version\":1", "\"version\":2"), Reason::UnsupportedVersion),
        (r#"{"event_id":"1","event_type":"OrderPlaced","version":2}"#, Reason::UnsupportedVersion),
        (r#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#, Reason::UnsupportedVersion),
        (&valid.replace("OrderPlaced", "OrderEaten"), Reason::UnsupportedType),
        (&valid.replace("59.70", "\"much\""), Reason::InvalidData),
        (&valid.replace("59.70", "1e999"), Reason::InvalidData),
        (&valid.replace("\"order_id\":\"order-1\",", ""), Reason::InvalidData),
        (&valid.replace("\"quantity\":3", "\"quantity\":-3"), Reason::InvalidData),
    ] {
        assert_eq!(reason(payload.as_bytes()), expected, "{payload:.80}");
    }
    assert_eq!(reason(b"{\"event_id\":\"\xff\"}"), Reason::Undecodable);
    // Nor is it JSON where nobody looks into the text.
    let note = b"{\"event_id\":\"1\",\"event_type\":\"Any\",\"note\":\"\xff\"}";
    let refused = Event::decode(&Headers::new(), &Bytes::from_static(note), &origin()).unwrap_err();
    assert!(refused.to_string().contains("must be UTF-8"), "{refused}");
}

fn with_headers(headers: &[(&str, &'static str)], payload: &'static str) -> Result<Event, Reason> {
    let mut all = Headers::new();
    for (name, value) in headers {
        all.push(*name, *value);
    }
    Event::decode(&all, &Bytes::from_static(payload.as_bytes()), &origin()).map_err(|error| error.reason())
}

const BINARY_HEADERS: [(&str, &str); 4] =
    [("CE-specversion", "1.0"), ("Ce-Id", "1"), ("ce-source", "s"), ("ce-type", "t")];

#[test]
fn binary_attributes_are_read_in_any_case_with_quotes_and_percent_signs_taken_off() {
    let more = [("ce-subject", r#""a \"b\" 100%25""#), ("ce-Tenant", "K%C3%A4se%20"), ("ce-data", "x"), ("other", "y")];

    let event = with_headers(&[&BINARY_HEADERS[..], &more].concat(), "{}").unwrap();

    assert_eq!(event.subject.as_deref(), Some("a \"b\" 100%"));
    assert_eq!(event.extensions, BTreeMap::from([("tenant".to_owned(), "Käse ".to_owned())]));
}

#[test]
fn bad_headers_get_their_reason() {
    for (header, payload, expected) in [
        (("ce-id", "2"), "{}", Reason::Undecodable),
        (("x", "y"), "{\"a\":", Reason::Undecodable),
        (("ce-datacontenttype", "application/vnd.shop+json"), "{} {}", Reason::Undecodable),
        (("ce-time", "yesterday"), "{}", Reason::Undecodable),
    ] {
        let headers = [&BINARY_HEADERS[..], &[header]].concat();
        assert_eq!(with_headers(&headers, payload), Err(expected), "{header:?} {payload}");
    }
    for (name, value, expected) in [
        ("Ce-Id", "%FF", Reason::InvalidId),
        ("Ce-Id", "%0A", Reason::InvalidId),
        ("CE-specversion", "2.0", Reason::UnsupportedVersion),
    ] {
        let headers = BINARY_HEADERS.map(|header| if header.0 == name { (name, value) } else { header });
        assert_eq!(with_headers(&headers, "{}"), Err(expected), "{name}: {value}");
    }
    let twice = [("Nats-Msg-Id", "1"), ("nats-msg-id", "2")];
    assert_eq!(with_headers(&twice, "[]"), Err(Reason::Undecodable));
}

#[test]
fn data_that_is_not_json_is_read_when_the_event_says_so() {
    let headers = [&BINARY_HEADERS[..], &[("ce-datacontenttype", "text/plain")]].concat();
    let structured = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":"a\nb","x":null}"#;

    assert_eq!(with_headers(&headers, "a\nb").unwrap(), with_headers(&[], structured).unwrap());
}

#[test]
fn a_structured_event_may_repeat_its_attributes_as_headers() {
    let structured = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a":1}}"#;
    let headers = [&BINARY_HEADERS[..], &[("Content-type", "application/CloudEvents+json; charset=utf-8")]].concat();

    assert_eq!(with_headers(&headers, structured).unwrap().data, "{\"a\":1}");
}

#[test]
fn an_order_without_items_is_read_as_go_writes_it() {
    let body = String::from_utf8(PLAIN.to_vec()).unwrap();
    let (before, rest) = body.split_once("[{").unwrap();
    let (_, after) = rest.split_once("}]").unwrap();

    let event = decode(&Headers::new(), &format!("{before}null{after}").into());

    let ShopEvent::OrderPlaced(order) = ShopEvent::from_event(&event).unwrap() else { panic!() };
    assert_eq!(order.items, []);
}

fn dead_letter() -> DeadLetter {
    let mut headers = Headers::new();
    headers.push("ce-id", "1");
    headers.push("Nats-Msg-Id", "chosen by the publisher");
    headers.push("millrace-reason", "forged");
    DeadLetter {
        id: DeadLetter::id_for("shop/emails", &origin(), b"{", 0),
        reason: Reason::Undecodable,
        error: "EOF while parsing".to_owned(),
        attempts: 1,
        first_failure: "2026-01-02T03:04:05Z".parse().unwrap(),
        last_failure: "2026-01-02T03:04:06Z".parse().unwrap(),
        origin: origin(),
        consumer: "shop/emails".to_owned(),
        replays: 0,
        key: None,
        headers,
        payload: Bytes::from_static(b"{"),
    }
}

#[test]
fn a_dead_letter_is_written_as_its_golden_file_says_and_trusts_no_header_of_the_publisher() {
    assert_eq!(as_text(dead_letter().encode()), DEAD_LETTER);

    let (headers, payload) = from_text(DEAD_LETTER);
    assert_eq!(DeadLetter::decode(&headers, None, payload).unwrap(), dead_letter());
}

#[test]
fn what_is_put_back_is_the_original_and_counts_for_the_consumer_that_gave_it_up_only() {
    let mut second = DeadLetter { replays: 1, ..dead_letter() };
    // What it was put back with the first time is among its original headers.
    second.headers = dead_letter().replay_headers();

    let headers = second.replay_headers();

    assert_eq!(headers.get_str("ce-id"), Some("1"));
    assert_eq!(headers.get_str("Nats-Msg-Id"), Some("chosen by the publisher"));
    assert_eq!(headers.count("millrace-replays"), 1);
    assert_eq!((replays(&headers, "shop/emails"), replays(&headers, "shop/analytics")), (2, 0));
    let again = DeadLetter::id_for("shop/emails", &origin(), b"{", 2);
    assert_ne!(again, second.id, "its next dead letter is another one");
}

#[test]
fn an_event_without_an_id_is_known_by_its_first_place_however_often_it_is_put_back() {
    let at = |sequence| Origin { sequence: Some(sequence), ..origin() };
    let first = DeadLetter { headers: Headers::new(), payload: Bytes::from_static(b"[]"), ..dead_letter() };
    let second = DeadLetter { headers: first.replay_headers(), origin: at(99), ..first.clone() };

    let known_by = |headers: &Headers, origin| {
        let event = Event::decode(headers, &first.payload, &origin).unwrap();
        (event.id.as_str().to_owned(), event.source)
    };

    let original = known_by(&first.headers, first.origin.clone());
    assert_eq!(known_by(&first.replay_headers(), at(99)), original);
    assert_eq!(known_by(&second.replay_headers(), at(120)), original);
}

#[test]
fn what_is_put_back_gives_the_broker_no_order_again_and_its_names_are_ours_in_any_case() {
    let orders = ["Nats-Rollup", "nats-expected-last-sequence", "Nats-Schedule-TTL", "Nats-TTL", "Millrace-Consumer"];
    let mut letter = dead_letter();
    for name in orders {
        letter.headers.push(name, Bytes::from_static(b"sub"));
    }

    let headers = letter.replay_headers();

    assert_eq!(orders.map(|name| headers.count(name)), [0, 0, 0, 0, 1]);
    assert_eq!(replays(&headers, "shop/emails"), 1);
}

#[test]
fn a_mark_takes_out_the_letter_that_it_names_and_no_event_can_carry_one_into_the_dead_letters() {
    let mark = taken_out_mark("an id");
    assert_eq!(mark.get_str("millrace-taken-out"), Some("an id"), "topics hold it");
    assert_eq!(taken_out(&mark), Some("an id"));

    let (headers, payload) = DeadLetter { headers: mark.clone(), ..dead_letter() }.encode();
    assert_eq!(taken_out(&headers), None);
    assert_eq!(DeadLetter::decode(&headers, None, payload).unwrap().headers, mark, "and it is kept as it was");
}

#[test]
fn the_id_of_a_dead_letter_stays_the_same_for_the_same_message_only() {
    let id = |consumer: &str, sequence, payload: &[u8]| {
        DeadLetter::id_for(consumer, &Origin { sequence: Some(sequence), ..origin() }, payload, 0)
    };
    assert_eq!(id("a/b", 1, b"x"), id("a/b", 1, b"x"));
    for other in [id("a/c", 1, b"x"), id("a/b", 2, b"x"), id("a/b", 1, b"y")] {
        assert_ne!(id("a/b", 1, b"x"), other);
    }
}

fn kafka_origin() -> Origin {
    Origin {
        broker: BrokerKind::Kafka,
        stream: None,
        partition: Some(3),
        subject: "orders.placed".into(),
        sequence: Some(42),
    }
}

#[test]
fn on_kafka_attributes_have_their_own_prefix_and_are_not_percent_encoded() {
    let (headers, payload) = from_text(KAFKA);
    let event = Event::decode(&headers, &payload, &kafka_origin()).unwrap();
    assert_eq!(as_text(event.encode_kafka()), KAFKA);
    assert_eq!(ShopEvent::from_event(&event).unwrap(), order());

    let mut headers = Headers::new();
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("ce_source", "\"ä%20b\""),
        ("ce_type", "T"),
        ("ce_partitionkey", "100%"),
    ] {
        headers.push(name, value);
    }
    let event = Event::decode(&headers, &Bytes::new(), &kafka_origin()).unwrap();
    assert_eq!((event.source.as_str(), event.extensions["partitionkey"].as_str()), ("\"ä%20b\"", "100%"));
    assert!(event.data.is_empty(), "a tombstone with attributes is an event without data");

    headers.push("ce_id", "2");
    assert_eq!(Event::decode(&headers, &Bytes::new(), &kafka_origin()).unwrap_err().reason(), Reason::Undecodable);
    // Attributes of the other binding say nothing here, and a bare tombstone is no event.
    let (headers, _) = from_text(BINARY);
    assert_eq!(Event::decode(&headers, &Bytes::new(), &kafka_origin()).unwrap_err().reason(), Reason::Undecodable);
}

#[test]
fn an_origin_on_kafka_is_written_with_partition_and_offset_and_read_back() {
    let origin = kafka_origin();

    assert_eq!(origin.to_string(), "kafka://orders.placed/3#42");
    assert_eq!("kafka://orders.placed/3#42".parse(), Ok(origin.clone()));

    let plain = Event::decode(&Headers::new(), &Bytes::from_static(b"[1]"), &origin).unwrap();
    assert_eq!((plain.source.as_str(), plain.id.as_str()), ("kafka://orders.placed", "orders.placed:3:42"));

    let letter = DeadLetter { origin, key: Some(Bytes::from_static(b"order-1")), ..dead_letter() };
    let (headers, payload) = letter.encode();
    assert_eq!(headers.get_str("millrace-id"), Some(letter.id.as_str()));
    assert_eq!(DeadLetter::decode(&headers, letter.key.clone(), payload).unwrap(), letter);
}

#[test]
fn a_dead_letter_by_reference_is_small_and_says_what_it_stands_for() {
    let mut letter = dead_letter();
    letter.payload = Bytes::from(vec![b'x'; 2_000_000]);
    letter.headers.push("big", vec![b'y'; 100_000]);

    let (headers, payload) = letter.encode_by_reference();

    assert!(payload.is_empty() && headers.wire_size() < 4096, "{}", headers.wire_size());
    assert_eq!(headers.get_str("millrace-payload-bytes"), Some("2000000"));
    assert_eq!(headers.get_str("millrace-origin"), Some("jetstream://ORDERS/orders.placed#42"));
}

/// A media type, and data that is of this type.
fn arbitrary_data() -> impl Strategy<Value = (Option<String>, Bytes)> {
    let json = "[ -~]{0,40}".prop_map(|text| Bytes::from(serde_json::json!({ "text": text }).to_string()));
    prop_oneof![
        (prop::option::of(Just("application/json; charset=utf-8".to_owned())), json),
        (Just(Some("application/octet-stream".to_owned())), any::<Vec<u8>>().prop_map(Bytes::from)),
        (Just(None), Just(Bytes::new())),
    ]
}

fn arbitrary_event() -> impl Strategy<Value = Event> {
    let text = "[ -~äé\"%]{0,20}";
    let extensions = prop::collection::btree_map("x[a-z0-9]{1,10}", text, 0..4);
    let time = prop::option::of(
        (-1_000_000_000_i64..4_000_000_000).prop_map(|second| jiff::Timestamp::from_second(second).unwrap()),
    );
    let attributes = ("[!-~]{1,40}", text, text, prop::option::of(text), time, extensions, arbitrary_data());
    attributes.prop_map(|(id, source, event_type, subject, time, extensions, (data_content_type, data))| Event {
        id: EventId::new(id).unwrap(),
        source,
        event_type,
        subject,
        time,
        data_content_type: data_content_type.map(Into::into),
        extensions,
        data,
    })
}

proptest! {
    #[test]
    fn what_is_encoded_in_any_form_is_decoded_to_the_same_event(event in arbitrary_event()) {
        let (headers, payload) = event.encode_binary();
        prop_assert_eq!(&decode(&headers, &payload), &event);
        let (headers, payload) = event.encode_kafka();
        prop_assert_eq!(&Event::decode(&headers, &payload, &kafka_origin()).unwrap(), &event);
        let (headers, payload) = event.encode_structured().unwrap();
        prop_assert_eq!(&decode(&headers, &payload), &event);
    }

    #[test]
    fn what_is_encoded_as_a_dead_letter_is_decoded_to_the_same(
        names in prop::collection::vec("(nats-|millrace-|ce-|X-)[a-z]{1,8}", 0..5),
        payload: Vec<u8>,
        attempts: u32,
        reason in prop::sample::select(Reason::ALL.to_vec()),
        error in "[!-~]{0,2000}",
    ) {
        let mut letter = DeadLetter { payload: payload.into(), attempts, reason, error, headers: Headers::new(), ..dead_letter() };
        for name in names {
            letter.headers.push(name, "v");
        }
        let (headers, payload) = letter.encode();
        letter.error.truncate(1024);
        prop_assert_eq!(DeadLetter::decode(&headers, None, payload).unwrap(), letter);
    }

    #[test]
    fn no_bytes_and_no_headers_make_the_reader_panic(
        names in prop::collection::vec("ce[-_](id|specversion|source|type|time)|Content-Type|Nats-Msg-Id|[a-zA-Z-]{1,12}", 0..8),
        values in prop::collection::vec(prop_oneof![Just(b"1.0".to_vec()), any::<Vec<u8>>()], 8),
        payload: Vec<u8>,
        json in "\\{?\"?(event_id|specversion|data)?\"?:?[\\[\\]{}\",:0-9a-z]{0,60}",
    ) {
        let mut headers = Headers::new();
        for (name, value) in names.into_iter().zip(values) {
            headers.push(name, value);
        }
        for payload in [Bytes::from(payload), Bytes::from(json)] {
            for origin in [origin(), kafka_origin()] {
                if let Ok(event) = Event::decode(&headers, &payload, &origin) {
                    drop(ShopEvent::from_event(&event));
                }
            }
            drop(DeadLetter::decode(&headers, None, payload));
        }
    }
}
