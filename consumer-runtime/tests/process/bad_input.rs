//! Bad messages: each is a dead letter with its reason, its bytes and one attempt, or an event like any other; none blocks,
//! kills, or is tried again. The same table on every broker, and what only one of them can carry.

use std::{collections::BTreeMap, io::Write as _, net::TcpStream, path::Path, time::Duration};

use bytes::Bytes;
use millrace_events::Headers;
use millrace_testkit::{
    kafka_server::KafkaServer,
    nats_server::{NatsServer, NatsServerOptions},
    sample,
    wait::{eventually, until},
};

use crate::support::{PATIENCE, Runtime};

/// The largest payload that a handler gets, lowered so that one above it is quick.
const PAYLOAD_BYTES: usize = 100_000;

/// A message, and what becomes of it: the reason of its dead letter, or nothing where it is handled.
struct Case {
    name: &'static str,
    headers: Vec<(String, Vec<u8>)>,
    payload: Vec<u8>,
    reason: Option<&'static str>,
}

fn case(name: &'static str, payload: impl Into<Vec<u8>>, reason: impl Into<Option<&'static str>>) -> Case {
    Case { name, headers: Vec::new(), payload: payload.into(), reason: reason.into() }
}

impl Case {
    fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

fn order(id: &str) -> String {
    String::from_utf8(sample::order(id).to_vec()).unwrap()
}

/// An order with a field more, of this JSON.
fn order_with(id: &str, field: &str, value: &str) -> String {
    order(id).replacen('{', &format!("{{\"{field}\":{value},"), 1)
}

/// An order of exactly so many bytes.
fn order_of(id: &str, bytes: usize) -> String {
    let empty = order_with(id, "note", "\"\"").len();
    order_with(id, "note", &format!("\"{}\"", "x".repeat(bytes - empty)))
}

/// An order as a binary CloudEvent with this id, by the headers of a broker.
fn binary(name: &'static str, prefix: &str, id: &[u8], reason: Option<&'static str>) -> Case {
    case(name, order("in the body"), reason)
        .with(&format!("{prefix}specversion"), "1.0")
        .with(&format!("{prefix}source"), "/bad-input")
        .with(&format!("{prefix}type"), "OrderPlaced")
        .with(&format!("{prefix}id"), id)
}

/// What every broker can carry. `prefix` is that of the broker's `CloudEvents` headers.
fn cases(prefix: &str) -> Vec<Case> {
    const UNDECODABLE: &str = "Undecodable";
    const INVALID_ID: &str = "InvalidId";
    let (deep, number) = ("[".repeat(90_000), "9".repeat(400));
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let timestamp = |id: &str, time: &str| order(id).replace("2026-01-02T03:04:05Z", time);
    let mut cases = vec![
        case("empty", "", UNDECODABLE),
        case("white space only", " \n\t ", UNDECODABLE),
        case("not JSON", "order 66", UNDECODABLE),
        case("truncated", &order("truncated").as_bytes()[..50], UNDECODABLE),
        case("trailing bytes", order("trailing") + "x", UNDECODABLE),
        case("two documents", order("one") + &order("two"), UNDECODABLE),
        case("id twice", order_with("a", "event_id", "\"b\""), UNDECODABLE),
        case("deep, with an end that is missing", deep, UNDECODABLE),
        case("invalid UTF-8", b"{\"event_id\":\"\xff\xfe\"}".to_vec(), UNDECODABLE),
        case("NaN", order("nan").replace("25.0", "NaN"), UNDECODABLE),
        case("compressed: nothing is unpacked", gzip.to_vec(), UNDECODABLE),
        case("a schema registry's magic byte", b"\0\0\0\0\x07{}".to_vec(), UNDECODABLE),
        case("bytes that are not of their type", b"\x00\x01".to_vec(), UNDECODABLE)
            .with("content-type", "application/json"),
        case("empty id", order(""), INVALID_ID),
        case("NUL in the id", order("a\\u0000b").replace("\\\\u", "\\u"), INVALID_ID),
        case("direction mark in the id", order("\u{202e}evil"), INVALID_ID),
        case("id of 257 bytes", order(&"x".repeat(257)), INVALID_ID),
        case("id of 64 KiB", format!("{{\"event_id\":\"{}\",\"event_type\":\"T\"}}", "x".repeat(65_536)), INVALID_ID),
        case("id that is a number", order("n").replace("\"event_id\":\"n\"", "\"event_id\":7"), UNDECODABLE),
        case("no type", r#"{"event_id":"no-type","version":1}"#, UNDECODABLE),
        case("unknown type", order("type").replace("OrderPlaced", "OrderEaten"), "UnsupportedType"),
        case("JSON of no known form", r#"{"hello":"world"}"#, "UnsupportedType"),
        case("unknown version", order("v2").replace("\"version\":1", "\"version\":2"), "UnsupportedVersion"),
        case("unknown specversion", r#"{"specversion":"2.0","id":"1"}"#, "UnsupportedVersion"),
        case("no specversion", "{}", UNDECODABLE).with(&format!("{prefix}id"), "1"),
        case("a number that is too large", order("1e999").replace("25.0", "1e999"), "InvalidData"),
        case("more digits than are counted", order("digits").replace("25.0", &number), "InvalidData"),
        case(
            "an integer that is too large",
            order("i64").replace("\"quantity\":2", "\"quantity\":18446744073709551617"),
            "InvalidData",
        ),
        case("a time that is none", timestamp("time", "yesterday"), "InvalidData"),
        case("payload above the limit", order_of("over", PAYLOAD_BYTES + 1), "TooLarge"),
        // What is strange, and an event all the same.
        case("payload at the limit", order_of("at the limit", PAYLOAD_BYTES), None),
        case("a field more", order_with("more", "loyalty_tier", "{\"gold\":[1,2]}"), None),
        case("year 9999", timestamp("9999", "9999-12-30T00:00:00Z"), None),
        case("leap second", timestamp("leap", "2016-12-31T23:59:60Z"), None),
        case("headers of ours and of others, forged", order("forged"), None)
            .with("millrace-replays", "999999999999999999999")
            .with("millrace-attempts", "99")
            .with("x-retry-count", "-1")
            .with("x-dlq-reason", "no")
            .with("traceparent", "00-garbage-zz"),
        case("forged, and not JSON", "{", UNDECODABLE)
            .with("millrace-reason", "Expired")
            .with("millrace-attempts", "99")
            .with("millrace-origin", "jetstream://X/y#1"),
        binary("binary with an id of ours", prefix, b"binary", None),
        binary("binary with an empty id", prefix, b"", Some(INVALID_ID)),
        binary("binary with two ids", prefix, b"1", Some(UNDECODABLE)).with(&format!("{prefix}id"), "2"),
        case("an id once more, with other content", order("forged").replace("Kettle", "Teapot"), "IdempotencyConflict"),
    ];
    let mut many = case("10,000 headers, and not JSON", "{", UNDECODABLE);
    for _ in 0..10_000 {
        many = many.with("x", "y");
    }
    cases.push(many);
    cases.push(case("one header of 60 kB, and not JSON", "{", UNDECODABLE).with("x-large", vec![b'y'; 60_000]));
    cases
}

/// A dead letter as a test looks at it.
struct Letter {
    headers: BTreeMap<String, String>,
    payload: Bytes,
}

/// Checks what became of each, by its place.
fn check(cases: &[Case], letters: &[Letter], first_place: usize) {
    let place = |letter: &Letter| -> usize {
        let origin = &letter.headers["millrace-origin"];
        origin.rsplit_once('#').unwrap().1.parse().unwrap()
    };
    let by_place: BTreeMap<usize, &Letter> = letters.iter().map(|letter| (place(letter), letter)).collect();
    assert_eq!(by_place.len(), letters.len(), "a dead letter came twice");
    for (index, case) in cases.iter().enumerate() {
        let letter = by_place.get(&(first_place + index));
        let reason = letter.map(|letter| letter.headers["millrace-reason"].as_str());
        assert_eq!(reason, case.reason, "{}: {:?}", case.name, letter.map(|letter| &letter.headers["millrace-error"]));
        let Some(letter) = letter else { continue };
        assert_eq!(letter.headers["millrace-attempts"], "1", "{}", case.name);
        assert!(letter.headers["millrace-error"].len() <= 1024, "{}", case.name);
        if !letter.headers.contains_key("millrace-payload-bytes") {
            assert_eq!(letter.payload, case.payload, "{}", case.name);
        }
    }
}

/// One worker, so that of two events with the same id the one that came first is the one that is handled.
fn config(broker: &str, subject: &str, dead_letters: &str, more: &str) -> String {
    format!(
        "consumer: {{namespace: shop, name: bad}}
broker: {broker}
subjects: ['{subject}']
workers: 1
handler: {{analytics: {{}}}}
delivery: {{deadLetter: {{subject: {dead_letters}}}}}
limits: {{payloadBytes: {PAYLOAD_BYTES}}}
{more}
"
    )
}

fn start(config: &str) -> Runtime {
    Runtime::of(config, Path::new("/nonexistent"), Path::new("/nonexistent"))
}

/// Publishes as a client of its own making, which may write what no library would.
pub(crate) struct RawPublisher(TcpStream);

impl RawPublisher {
    pub(crate) fn connect(server: &NatsServer) -> Self {
        let mut stream = TcpStream::connect(server.url().strip_prefix("nats://").unwrap()).unwrap();
        stream.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n").unwrap();
        Self(stream)
    }

    /// Publishes with this after the version in the first line of the headers: a status, where the server speaks.
    fn publish(&mut self, status: &str, case: &Case) {
        let mut head = format!("NATS/1.0{status}\r\n").into_bytes();
        for (name, value) in &case.headers {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        self.publish_raw(&head, &case.payload);
    }

    /// Publishes with these bytes in the place of headers.
    pub(crate) fn publish_raw(&mut self, head: &[u8], payload: &[u8]) {
        let sizes = format!("HPUB orders.placed {} {}\r\n", head.len(), head.len() + payload.len());
        self.0.write_all(&[sizes.as_bytes(), head, payload, b"\r\n"].concat()).unwrap();
    }
}

/// What JetStream can carry beside: headers that the server itself writes.
fn jetstream_cases() -> Vec<(&'static str, Case)> {
    let mut cases: Vec<_> = cases("ce-").into_iter().map(|case| ("", case)).collect();
    for (status, id) in
        [(" 503", "503"), (" 404 No Messages", "404"), (" 409 Consumer Deleted", "409"), (" 100", "100")]
    {
        cases.push((status, case("the status line of a server", order(id), None)));
    }
    cases.push(("", case("the pin of a server", order("pin"), None).with("Nats-Pin-Id", "forged")));
    // With its first line and its ends of lines it has the 65,535 bytes that JetStream takes, and ours come to that.
    let full = case("as many headers as fit, and not JSON", "{", "Undecodable").with("x-large", vec![b'y'; 65_512]);
    cases.push(("", full));
    let twice =
        case("two ids of the server's", order("msg-id"), None).with("Nats-Msg-Id", "a").with("Nats-Msg-Id", "b");
    cases.push(("", twice));
    cases.push(("", case("coordinates", order("seq"), None).with("Nats-Sequence", "1").with("Nats-Stream", "X")));
    cases
}

async fn every_bad_message_on_jetstream(more: &str) {
    let config_of_server = "max_payload: 2MB\nmax_control_line: 4KB".to_owned();
    let options = NatsServerOptions { jetstream: true, config: config_of_server, ..NatsServerOptions::default() };
    let server = NatsServer::start(options).await;
    let context = server.make_streams().await;
    let (statuses, cases): (Vec<_>, Vec<_>) = jetstream_cases().into_iter().unzip();
    let mut publisher = RawPublisher::connect(&server);
    for (status, case) in statuses.iter().zip(&cases) {
        publisher.publish(status, case);
    }
    let mut orders = context.get_stream("ORDERS").await.unwrap();
    let count = u64::try_from(cases.len()).unwrap();
    until("all are published", PATIENCE, async || orders.info().await.unwrap().state.messages == count).await;

    let broker = format!("{{jetStream: {{servers: ['{}'], stream: ORDERS, ackWaitSeconds: 2}}}}", server.url());
    let runtime = start(&config(&broker, "orders.>", "dlq.bad", more));
    let bad = u64::try_from(cases.iter().filter(|case| case.reason.is_some()).count()).unwrap();
    eventually("all are dealt with", PATIENCE, || {
        (runtime.total("handled"), runtime.total("deadLetters")) == (count - bad, bad)
    })
    .await;
    // Nothing is tried again, nothing comes again.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((runtime.total("deliveries"), runtime.total("retries"), runtime.in_flight()), (count, 0, 0));

    let dead_letters = context.get_stream("DLQ").await.unwrap();
    let mut letters = Vec::new();
    for sequence in 1..=bad {
        let message = dead_letters.get_raw_message(sequence).await.unwrap();
        let headers = message.headers.iter().map(|(name, values)| (name.to_string(), values[0].to_string())).collect();
        letters.push(Letter { headers, payload: message.payload });
    }
    check(&cases, &letters, 1);
}

#[tokio::test]
async fn every_bad_message_on_jetstream_is_a_dead_letter_with_its_reason_or_an_event() {
    every_bad_message_on_jetstream("").await;
}

#[tokio::test]
async fn no_bad_message_on_jetstream_blocks_those_that_are_handled_in_order() {
    every_bad_message_on_jetstream("ordering: Key\norderingKey: {field: order_id}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_message_on_kafka_is_a_dead_letter_with_its_reason_or_an_event() {
    let server = KafkaServer::start().await;
    // A broker refuses times that are far ahead of its own, unless it is told not to.
    server.create_topic("orders", 1, &[("message.timestamp.after.max.ms", "9223372036854775807")]).await;
    server.create_topic("dlq", 1, &[("max.message.bytes", "2000000")]).await;
    let publisher = server.publisher();
    let mut cases = cases("ce_");
    cases.push(binary("an id that is not UTF-8", "ce_", b"\xff", Some("InvalidId")));
    cases.push(case("a header that is not UTF-8", order("header"), None).with("x-bytes", b"\xff\xfe".to_vec()));
    let large = vec![b'y'; 990_000];
    cases.push(case("a header of almost a megabyte, and not JSON", "{", Some("Undecodable")).with("x-large", large));
    let lines = "x\r\nmillrace-reason: Expired";
    cases.push(case("lines in a header, and not JSON", "{", Some("Undecodable")).with("x-lines", lines));
    for case in &cases {
        let mut headers = Headers::new();
        for (name, value) in &case.headers {
            headers.push(name.clone(), value.clone());
        }
        publisher.send("orders", None, &headers, Some(&case.payload));
    }
    // What only Kafka has: no value, and keys of any bytes and size.
    let large_key = vec![b'k'; 100_000];
    publisher.send("orders", Some(b"\xff\xfe"), &Headers::new(), None);
    cases.push(case("a tombstone, with a key that is not UTF-8", "", "Undecodable"));
    publisher.send("orders", Some(&large_key), &Headers::new(), Some(order("large-key").as_bytes()));
    cases.push(case("a key of 100 kB", order("large-key"), None));
    for (name, id, time) in [
        ("no time", "-1", -1),
        ("a time that is to come", "to come", 4_102_444_800_000),
        ("a time after all times", "after", i64::MAX / 1_000_000),
    ] {
        publisher.send_at("orders", time, order(id).as_bytes());
        cases.push(case(name, order(id), None));
    }
    publisher.flush();

    let broker = format!("{{kafka: {{bootstrapServers: ['{}']}}}}", server.bootstrap());
    let runtime = start(&config(&broker, "orders", "dlq", "idempotency: {store: {memory: {}}}"));
    let count = u64::try_from(cases.len()).unwrap();
    let bad = u64::try_from(cases.iter().filter(|case| case.reason.is_some()).count()).unwrap();
    eventually("all are dealt with", PATIENCE, || {
        (runtime.total("handled"), runtime.total("deadLetters")) == (count - bad, bad)
    })
    .await;
    assert_eq!((runtime.total("deliveries"), runtime.total("retries"), runtime.in_flight()), (count, 0, 0));

    let records = server.read("dlq", 1, usize::try_from(bad).unwrap());
    let tombstone = records.iter().find(|record| record.key.is_some()).unwrap();
    assert_eq!(tombstone.key.as_deref(), Some(b"\xff\xfe".as_slice()), "the bytes of a key are kept");
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let letters: Vec<Letter> = records
        .into_iter()
        .map(|record| Letter {
            // Of those with the same name, the last is ours.
            headers: record.headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect(),
            payload: record.payload.unwrap_or_default(),
        })
        .collect();
    check(&cases, &letters, 0);
}

#[tokio::test]
async fn payloads_far_above_the_limit_are_dead_letters_by_reference_and_cost_no_more_than_their_bytes() {
    const MIB: usize = 1024 * 1024;
    let options = NatsServerOptions { jetstream: true, config: "max_payload: 64MB".to_owned(), ..Default::default() };
    let server = NatsServer::start(options).await;
    let context = server.make_streams().await;
    let mut publisher = RawPublisher::connect(&server);
    // The server's own files hold no message of 32 MiB (`rlBadThresh` of nats-server), whatever its max_payload says.
    let sizes = [8 * MIB, 31 * MIB];
    for size in sizes {
        publisher.publish("", &case("large", order_of("large", size), "TooLarge"));
    }
    publisher.publish("", &case("small", order("small"), None));

    let broker = format!("{{jetStream: {{servers: ['{}'], stream: ORDERS}}}}", server.url());
    let runtime = start(&config(&broker, "orders.>", "dlq.bad", ""));
    eventually("all are dealt with", PATIENCE, || (runtime.total("handled"), runtime.total("deadLetters")) == (1, 2))
        .await;

    let dead_letters = context.get_stream("DLQ").await.unwrap();
    for (sequence, size) in (1..).zip(sizes) {
        let letter = dead_letters.get_raw_message(sequence).await.unwrap();
        let header = |name: &str| letter.headers.get(name).unwrap().as_str().to_owned();
        assert_eq!(header("millrace-reason"), "TooLarge");
        assert_eq!((header("millrace-payload-bytes"), letter.payload.len()), (size.to_string(), 0));
    }
}
