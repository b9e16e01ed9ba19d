//! Messages whose headers the client library cannot read: each is a dead letter, and holds up nobody.

use std::path::Path;

use async_nats::jetstream::{self, stream::Stream};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use millrace_testkit::{
    nats_server::NatsServer,
    sample,
    wait::{eventually, until},
};

use crate::{
    bad_input::RawPublisher,
    support::{PATIENCE, Runtime, settled_of},
};

/// What no client library takes for headers.
const UNREADABLE: [&[u8]; 5] = [
    b"NATS/1.0\r\nx-name: caf\xe9\r\n\r\n",
    b"NATS/1.0\r\na line without one\r\n\r\n",
    b"NATS/1.0\r\na name: with a space\r\n\r\n",
    b"NATS/1.0\r\n\xff\xfe: x\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\n",
];

fn start(server: &NatsServer, ordering: &str) -> Runtime {
    let more = format!("delivery: {{deadLetter: {{subject: dlq.unreadable}}}}\n{ordering}");
    Runtime::with(server, "unreadable", 2, "{analytics: {}}", &more, Path::new("/nonexistent"))
}

/// Publishes an event before and after each of them.
async fn publish(server: &NatsServer, orders: &mut Stream, heads: &[&[u8]]) {
    let mut publisher = RawPublisher::connect(server);
    let readable: &[u8] = b"NATS/1.0\r\n\r\n";
    for (number, head) in heads.iter().enumerate() {
        publisher.publish_raw(readable, &sample::order(&format!("before-{number}")));
        publisher.publish_raw(head, &sample::order(&format!("unreadable-{number}")));
        publisher.publish_raw(readable, &sample::order(&format!("after-{number}")));
    }
    let count = 3 * u64::try_from(heads.len()).unwrap();
    until("all are published", PATIENCE, async || orders.info().await.unwrap().state.messages == count).await;
}

/// Checks that each is one dead letter, with what stood in the place of its headers.
async fn check(context: &jetstream::Context, heads: &[&[u8]]) {
    let mut dead_letters = context.get_stream("DLQ").await.unwrap();
    assert_eq!(dead_letters.info().await.unwrap().state.messages, u64::try_from(heads.len()).unwrap());
    let mut seen = Vec::new();
    for sequence in 1..=u64::try_from(heads.len()).unwrap() {
        let letter = dead_letters.get_raw_message(sequence).await.unwrap();
        let header = |name: &str| letter.headers.get(name).unwrap().as_str();
        assert_eq!((header("millrace-reason"), header("millrace-attempts")), ("Undecodable", "1"));
        let kept = STANDARD.decode(header("millrace-original-millrace-unreadable")).unwrap();
        let number = heads.iter().position(|head| *head == kept).unwrap();
        assert_eq!(letter.payload, sample::order(&format!("unreadable-{number}")));
        seen.push(number);
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..heads.len()), "each of them once");
}

async fn hold_up_nobody(ordering: &str) {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let mut orders = context.get_stream("ORDERS").await.unwrap();
    publish(&server, &mut orders, &UNREADABLE).await;
    let runtime = start(&server, ordering);

    let others = 2 * u64::try_from(UNREADABLE.len()).unwrap();
    eventually("all others are handled", PATIENCE, || runtime.orders() == others).await;

    settled_of(&context, "shop-unreadable", PATIENCE).await;
    assert_eq!(runtime.orders(), others, "each of the others is handled once");
    check(&context, &UNREADABLE).await;
}

#[tokio::test]
async fn headers_that_cannot_be_read_make_a_dead_letter_and_hold_up_nobody() {
    hold_up_nobody("").await;
}

#[tokio::test]
async fn headers_that_cannot_be_read_hold_up_nobody_in_an_order() {
    hold_up_nobody("ordering: Key\norderingKey: {field: order_id}").await;
}

/// async-nats 0.51 panics over it, which ends the task of its connection and with it all that it could ever do.
#[tokio::test]
async fn a_header_that_ends_the_client_ends_its_process_and_is_a_dead_letter_of_the_next() {
    const DEADLY: [&[u8]; 1] = [b"NATS/1.0\r\nx-name: a\rb\r\n\r\n"];
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let mut orders = context.get_stream("ORDERS").await.unwrap();
    publish(&server, &mut orders, &DEADLY).await;
    let mut first = start(&server, "");
    assert_eq!(first.wait().code(), Some(69));

    let _second = start(&server, "");

    settled_of(&context, "shop-unreadable", PATIENCE).await;
    check(&context, &DEADLY).await;
}
