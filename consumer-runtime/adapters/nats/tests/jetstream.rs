//! The JetStream source on a real server: the contract, crashes of the server, and what is said about set-ups that do
//! not work.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    backoff::Backoff,
    delivery::Receipt,
    health::{Health, Part, TroubleReason},
    kept::Kept,
    letters::{LetterKeeper as _, LetterReader as _},
    ports::{DeadLetters, LagProbe as _, Letters, Reader, Settler},
    settle::Settlement,
    window::Budget,
};
use millrace_events::{BrokerKind, DeadLetter, Headers, Origin, Reason};
use millrace_nats::{
    Connection, ConnectionOptions, DeadLetterOptions, DeadLetterStream, InitialPosition, JetStreamDeadLetters,
    JetStreamOptions, MountedSecret, connect, delete_durable, set_up,
};
use millrace_testkit::{
    clock::WallClock,
    contract::source::{self, SourceUnderTest},
    nats_server::{NatsServer, NatsServerOptions, header_map},
    wait::until,
};

const PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(50), max: Duration::from_millis(500), jitter_percent: 20 };

fn connection_options(url: String, auth: Option<MountedSecret>) -> ConnectionOptions {
    ConnectionOptions {
        servers: vec![url],
        auth,
        tls: None,
        name: "test".to_owned(),
        request_timeout: Duration::from_secs(1),
        reconnect: PAUSES,
    }
}

fn options() -> JetStreamOptions {
    JetStreamOptions {
        stream: Some("ORDERS".to_owned()),
        durable: "emails".to_owned(),
        subjects: vec!["orders.placed".to_owned()],
        initial_position: InitialPosition::All,
        ack_wait: Duration::from_secs(2),
        in_order: false,
        dead_letter_subject: Some("dlq.emails".to_owned()),
    }
}

struct Replica {
    connection: Connection,
    health: Arc<Health>,
    reader: Box<dyn Reader>,
    settler: Arc<dyn Settler>,
}

async fn replica(server: &NatsServer) -> Replica {
    replica_with(server, &options()).await
}

async fn replica_with(server: &NatsServer, options: &JetStreamOptions) -> Replica {
    let health = Arc::new(Health::starting([Part::Broker]));
    let connection = connect(&connection_options(server.url(), None), &health).await.unwrap();
    let source = set_up(&connection, options, &WallClock::start(), &health).await.unwrap();
    Replica { connection, health, reader: Box::new(source.reader), settler: Arc::new(source.settler) }
}

struct Source {
    server: NatsServer,
    context: jetstream::Context,
}

#[async_trait]
impl SourceUnderTest for Source {
    async fn publish(&self, headers: Headers, payload: Bytes) {
        self.context.publish_with_headers("orders.placed", header_map(&headers), payload).await.unwrap().await.unwrap();
    }

    async fn open(&self) -> (Box<dyn Reader>, Arc<dyn Settler>) {
        let replica = replica(&self.server).await;
        (replica.reader, replica.settler)
    }
}

#[tokio::test]
async fn the_source_keeps_the_contract() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;

    source::run(&Source { server, context }).await;
}

async fn take_one(replica: &mut Replica, patience: Duration) -> Option<Bytes> {
    let deadline = tokio::time::Instant::now() + patience;
    let budget = Budget { messages: 10, bytes: 1_000_000 };
    loop {
        // An error is a pause for the engine; here the next call follows at once, which is harder.
        let batch = tokio::time::timeout_at(deadline, replica.reader.next_batch(budget)).await.ok()?;
        if let Some(delivery) = batch.ok().and_then(|batch| batch.into_iter().next()) {
            let settled = replica.settler.settle(&delivery.receipt, Settlement::Done).await;
            return settled.ok().map(|()| delivery.payload);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_came_while_nobody_took_events_is_not_handled_when_the_server_may_have_given_it_to_others() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let options = JetStreamOptions { ack_wait: Duration::from_secs(1), ..options() };
    let mut replica = replica_with(&server, &options).await;
    // A pull is outstanding when the event comes, and nobody reads before it has ended, by when the ack wait is over.
    assert_eq!(take_one(&mut replica, Duration::from_millis(500)).await, None);
    context.publish("orders.placed", "{}".into()).await.unwrap().await.unwrap();
    let mut durable: jetstream::consumer::PullConsumer =
        context.get_stream("ORDERS").await.unwrap().get_consumer("emails").await.unwrap();
    until("the pull has ended", Duration::from_secs(10), async || durable.info().await.unwrap().num_waiting == 0).await;

    let budget = Budget { messages: 10, bytes: 1_000_000 };
    let batch = loop {
        let batch = replica.reader.next_batch(budget).await.unwrap();
        if !batch.is_empty() {
            break batch;
        }
    };

    let counts: Vec<u32> = batch.iter().map(|delivery| delivery.delivered_count).collect();
    assert!(counts.iter().all(|count| *count > 1), "what lay there was left to whoever gets it next: {counts:?}");
}

#[tokio::test]
async fn three_replicas_go_on_within_five_seconds_of_a_servers_crash() {
    let mut server = NatsServer::jetstream().await;
    server.make_streams().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        let mut replica = replica(&server).await;
        // A pull is outstanding in each when the server dies.
        assert_eq!(take_one(&mut replica, Duration::from_millis(50)).await, None);
        replicas.push(replica);
    }

    server.kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.restart().await;

    let publisher = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    for replica in &mut replicas {
        // Each replica in turn is the only one that asks, so each must have come back by itself.
        publisher.publish("orders.placed", "x".into()).await.unwrap().await.unwrap();
        assert_eq!(take_one(replica, Duration::from_secs(5)).await, Some(Bytes::from_static(b"x")));
        assert!(replica.health.is_ready(), "{:?}", replica.health.troubles());
        while replica.reader.rest().await.is_some() {}
    }
}

#[tokio::test]
async fn a_durable_that_is_deleted_is_made_again() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let mut replica = replica(&server).await;
    assert_eq!(take_one(&mut replica, Duration::from_millis(50)).await, None);

    let stream = context.get_stream("ORDERS").await.unwrap();
    stream.delete_consumer("emails").await.unwrap();
    context.publish("orders.placed", "x".into()).await.unwrap().await.unwrap();

    assert_eq!(take_one(&mut replica, Duration::from_secs(10)).await, Some(Bytes::from_static(b"x")));
}

fn dead_letter(payload: Bytes) -> DeadLetter {
    let now = jiff::Timestamp::now();
    let origin = Origin {
        broker: BrokerKind::JetStream,
        stream: Some("ORDERS".into()),
        partition: None,
        subject: "orders.placed".into(),
        sequence: Some(1),
    };
    DeadLetter {
        id: DeadLetter::id_for("shop/emails", &origin, &payload, 0),
        reason: Reason::Undecodable,
        error: "e".to_owned(),
        attempts: 1,
        first_failure: now,
        last_failure: now,
        origin,
        consumer: "shop/emails".to_owned(),
        replays: 0,
        key: None,
        headers: Headers::new(),
        payload,
    }
}

#[tokio::test]
async fn a_dead_letter_is_in_its_stream_once_when_it_is_published_twice_and_one_too_large_goes_by_reference() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let replica = replica(&server).await;
    let options = DeadLetterOptions { subject: "dlq.emails".to_owned(), max_bytes: 100_000 };
    let dead_letters = JetStreamDeadLetters::new(replica.connection.clone(), options, Kept::Forever);

    let (small, large) = (dead_letter(Bytes::from_static(b"{")), dead_letter(vec![b'x'; 200_000].into()));
    for _ in 0..2 {
        dead_letters.publish(&small).await.unwrap();
    }
    let mut stream = context.get_stream("DLQ").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    let message = stream.get_raw_message(1).await.unwrap();
    assert_eq!(message.payload, small.payload);

    dead_letters.publish(&DeadLetter { id: "other".to_owned(), ..large }).await.unwrap();
    let message = stream.get_raw_message(2).await.unwrap();
    assert_eq!(message.headers.get("millrace-payload-bytes").unwrap().as_str(), "200000");
}

#[tokio::test]
async fn the_body_of_a_dead_letter_is_not_left_in_a_stream_that_deletes_what_is_acked() {
    let server = NatsServer::jetstream().await;
    server.make_streams().await;
    let replica = replica(&server).await;
    let options = DeadLetterOptions { subject: "dlq.emails".to_owned(), max_bytes: 100_000 };
    let dead_letters = JetStreamDeadLetters::new(replica.connection.clone(), options, Kept::UntilAcked);

    let refused = dead_letters.publish(&dead_letter(vec![b'x'; 200_000].into())).await.unwrap_err().to_string();

    assert!(refused.contains("too large") && refused.contains("raise max_payload"), "{refused}");
    dead_letters.publish(&dead_letter(Bytes::from_static(b"{"))).await.unwrap();
}

#[tokio::test]
async fn a_dead_letter_is_read_back_with_the_payload_that_was_left_at_its_origin_while_that_is_there() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let replica = replica(&server).await;
    let options = DeadLetterOptions { subject: "dlq.emails".to_owned(), max_bytes: 100_000 };
    let dead_letters = JetStreamDeadLetters::new(replica.connection.clone(), options, Kept::Forever);
    let large = dead_letter(vec![b'x'; 200_000].into());
    context.publish("orders.placed", large.payload.clone()).await.unwrap().await.unwrap();
    dead_letters.publish(&large).await.unwrap();
    context.publish("dlq.emails", "not a dead letter".into()).await.unwrap().await.unwrap();
    let letters = DeadLetterStream::open(&replica.connection, "dlq.emails").await.unwrap();

    let mut reader = letters.reader();
    let first = reader.next().await.unwrap().unwrap();
    assert_eq!(first.letter.unwrap(), large);
    let second = reader.next().await.unwrap().unwrap();
    assert!(second.letter.unwrap_err().contains("no dead letter"));
    assert!(reader.next().await.unwrap().is_none());

    context.get_stream("ORDERS").await.unwrap().purge().await.unwrap();
    let gone = letters.reader().next().await.unwrap().unwrap().letter.unwrap_err();
    assert!(gone.contains("cannot be read at its origin"), "{gone}");
    letters.take_out(first.place, &large.id).await.unwrap();
    letters.take_out(first.place, &large.id).await.unwrap();
    assert_eq!(letters.reader().next().await.unwrap().unwrap().place, second.place);
}

/// The trouble that a set-up ends in.
#[tokio::test]
async fn what_waits_is_counted_for_the_durable_and_for_its_dead_letters_alone() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let health = Arc::new(Health::starting([Part::Broker]));
    let connection = connect(&connection_options(server.url(), None), &health).await.unwrap();
    let source = set_up(&connection, &options(), &WallClock::start(), &health).await.unwrap();
    assert_eq!((source.lag.pending().await, source.lag.dead_letters().await), (Some(0), Some(Letters::default())));

    for subject in ["orders.placed", "orders.placed", "orders.shipped", "dlq.emails", "dlq.others"] {
        context.publish(subject, Bytes::new()).await.unwrap().await.unwrap();
    }

    let first = source.lag.dead_letters().await.unwrap();
    assert_eq!((source.lag.pending().await, first.count), (Some(2), 1));

    let second = context.publish("dlq.emails", Bytes::new()).await.unwrap().await.unwrap().sequence;
    let stream = context.get_stream("DLQ").await.unwrap();
    let both = source.lag.dead_letters().await.unwrap();
    assert_eq!((both.count, both.last), (2, time_of(&stream, second).await));
    assert!(first.last < both.last, "{first:?} {both:?}");
    stream.delete_message(second).await.unwrap();
    assert_eq!(source.lag.dead_letters().await, Some(first), "the last was taken out");
}

#[tokio::test]
async fn dead_letters_that_may_not_be_read_are_counted_all_the_same() {
    let denied = "publish: { deny: \"$JS.API.STREAM.MSG.GET.>\" }";
    let config = format!(
        "no_auth_user: shop\nauthorization {{ users: [{{ user: shop, password: s, permissions: {{ {denied} }} }}] }}"
    );
    let options_of_server = NatsServerOptions { jetstream: true, config, ..NatsServerOptions::default() };
    let server = NatsServer::start(options_of_server).await;
    let context = server.make_streams().await;
    let health = Arc::new(Health::starting([Part::Broker]));
    let connection = connect(&connection_options(server.url(), None), &health).await.unwrap();
    let source = set_up(&connection, &options(), &WallClock::start(), &health).await.unwrap();
    context.publish("dlq.emails", Bytes::new()).await.unwrap().await.unwrap();

    // The report of a runtime waits no longer.
    let counted = tokio::time::timeout(Duration::from_secs(1), source.lag.dead_letters()).await.unwrap();

    assert_eq!(counted, Some(Letters { count: 1, last: None }));
}

async fn time_of(stream: &jetstream::stream::Stream, sequence: u64) -> Option<jiff::Timestamp> {
    let time = stream.get_raw_message(sequence).await.unwrap().time;
    jiff::Timestamp::from_nanosecond(time.unix_timestamp_nanos()).ok()
}

#[tokio::test]
async fn a_durable_is_deleted_once_and_one_that_is_not_there_is_deleted_too() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let health = Arc::new(Health::starting([Part::Broker]));
    let connection = connect(&connection_options(server.url(), None), &health).await.unwrap();
    set_up(&connection, &options(), &WallClock::start(), &health).await.unwrap();
    let stream = context.get_stream("ORDERS").await.unwrap();
    assert!(stream.consumer_info("emails").await.is_ok());

    for _ in 0..2 {
        delete_durable(&connection, &options()).await.unwrap();
        assert!(stream.consumer_info("emails").await.is_err());
    }
    context.delete_stream("ORDERS").await.unwrap();
    delete_durable(&connection, &options()).await.unwrap();
}

async fn trouble(connection_options: ConnectionOptions, options: JetStreamOptions) -> (TroubleReason, String) {
    let health = Arc::new(Health::starting([Part::Broker]));
    let setting_up = async {
        let connection = connect(&connection_options, &health).await?;
        set_up(&connection, &options, &WallClock::start(), &health).await.map(drop)
    };
    let trouble = setting_up.await.expect_err("the set-up worked");
    (trouble.reason, trouble.message)
}

#[tokio::test]
async fn a_set_up_that_cannot_work_says_what_to_do() {
    let server = NatsServer::jetstream().await;
    server.make_streams().await;
    let reachable = || connection_options(server.url(), None);

    let (reason, message) = trouble(connection_options("nats://127.0.0.1:1".to_owned(), None), options()).await;
    assert_eq!(reason, TroubleReason::Unreachable);
    assert!(message.contains("127.0.0.1:1"), "{message}");

    let (reason, _) = trouble(connection_options("nats://no-such-host.invalid:4222".to_owned(), None), options()).await;
    assert_eq!(reason, TroubleReason::Unreachable);

    let missing = JetStreamOptions { stream: Some("NOPE".to_owned()), ..options() };
    let (reason, message) = trouble(reachable(), missing).await;
    assert_eq!(reason, TroubleReason::StreamNotFound);
    assert!(message.contains("\"NOPE\""), "{message}");

    let uncovered = JetStreamOptions { dead_letter_subject: Some("nowhere".to_owned()), ..options() };
    let (reason, _) = trouble(reachable(), uncovered).await;
    assert_eq!(reason, TroubleReason::DeadLetterStreamNotFound);
}

#[tokio::test]
async fn credentials_that_are_missing_or_wrong_are_told_apart() {
    let server = NatsServer::start(NatsServerOptions {
        jetstream: true,
        user: Some(("shop", "right")),
        ..NatsServerOptions::default()
    })
    .await;
    let mount = std::env::temp_dir().join(format!("millrace-secret-{}", std::process::id()));
    let secret = MountedSecret { name: "nats-creds".to_owned(), directory: mount.clone() };
    let with_secret = || connection_options(server.url(), Some(secret.clone()));

    let (reason, message) = trouble(connection_options(server.url(), None), options()).await;
    assert_eq!(reason, TroubleReason::Unauthorized, "{message}");

    let (reason, message) = trouble(with_secret(), options()).await;
    assert_eq!(reason, TroubleReason::SecretMissing);
    assert!(message.contains("\"nats-creds\""), "{message}");

    std::fs::create_dir_all(&mount).unwrap();
    std::fs::write(mount.join("username"), "shop\n").unwrap();
    std::fs::write(mount.join("password"), "wrong").unwrap();
    let (reason, message) = trouble(with_secret(), options()).await;
    assert_eq!(reason, TroubleReason::Unauthorized);
    assert!(!message.contains("wrong"), "no secret in a message: {message}");

    std::fs::write(mount.join("password"), "right\n").unwrap();
    let (reason, _) = trouble(with_secret(), options()).await;
    assert_eq!(reason, TroubleReason::StreamNotFound, "connected by now");
    std::fs::remove_dir_all(&mount).unwrap();
}

fn in_order() -> JetStreamOptions {
    JetStreamOptions { in_order: true, ..options() }
}

async fn publish_numbers(context: &jetstream::Context, numbers: std::ops::Range<u32>) {
    for number in numbers {
        context.publish("orders.placed", number.to_string().into()).await.unwrap().await.unwrap();
    }
}

/// Takes until `enough` says so of the numbers taken so far, or patience ends.
async fn take_numbers(
    replica: &mut Replica,
    patience: Duration,
    enough: impl Fn(&[u32]) -> bool,
) -> Vec<(u32, Receipt)> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut taken: Vec<(u32, Receipt)> = Vec::new();
    while !enough(&taken.iter().map(|(number, _)| *number).collect::<Vec<_>>()) {
        let budget = Budget { messages: 30, bytes: 1_000_000 };
        let Ok(batch) = tokio::time::timeout_at(deadline, replica.reader.next_batch(budget)).await else { break };
        for delivery in batch.into_iter().flatten() {
            taken.push((std::str::from_utf8(&delivery.payload).unwrap().parse().unwrap(), delivery.receipt));
        }
    }
    taken
}

fn numbers(taken: &[(u32, Receipt)]) -> Vec<u32> {
    taken.iter().map(|(number, _)| *number).collect()
}

#[tokio::test]
async fn in_order_one_replica_gets_everything_and_another_goes_on_behind_what_is_settled_when_it_dies() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish_numbers(&context, 0..50).await;
    let mut first = replica_with(&server, &in_order()).await;
    let mut second = replica_with(&server, &in_order()).await;

    let taken = take_numbers(&mut first, Duration::from_secs(10), |taken| taken.len() >= 50).await;
    assert_eq!(numbers(&taken), (0..50).collect::<Vec<_>>());
    let standing_by = take_numbers(&mut second, Duration::from_secs(1), |taken| !taken.is_empty()).await;
    assert_eq!(numbers(&standing_by), [0; 0], "the second one stands by");

    // All but 10 and 20 are settled when the first one dies, and more is published meanwhile.
    for (_, receipt) in taken.iter().filter(|(number, _)| ![10, 20].contains(number)) {
        first.settler.settle(receipt, Settlement::Done).await.unwrap();
    }
    first.settler.flush().await.unwrap();
    drop(first);
    publish_numbers(&context, 50..60).await;
    let rest = take_numbers(&mut second, Duration::from_secs(10), |taken| taken.last() == Some(&59)).await;

    assert_eq!(
        numbers(&rest),
        (10..60).collect::<Vec<_>>(),
        "from the first that is not settled on, in order, with no gap"
    );
}

#[tokio::test]
async fn in_order_a_replica_that_leaves_passes_the_pin_on_at_once() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish_numbers(&context, 0..5).await;
    let mut first = replica_with(&server, &in_order()).await;
    let mut second = replica_with(&server, &in_order()).await;
    let taken = take_numbers(&mut first, Duration::from_secs(10), |taken| taken.len() >= 5).await;
    while first.reader.rest().await.is_some() {}
    let left = tokio::time::Instant::now();

    let rest = take_numbers(&mut second, Duration::from_secs(10), |taken| taken.len() >= 5).await;

    assert!(left.elapsed() < Duration::from_secs(1), "took {:?}", left.elapsed());
    // On a machine that has more to do, what is not settled may have come again.
    for taken in [numbers(&taken), numbers(&rest)] {
        assert!(taken.starts_with(&[0, 1, 2, 3, 4]), "{taken:?}");
    }
}

#[tokio::test]
async fn in_order_a_replica_whose_window_is_full_keeps_its_pin_by_saying_that_work_goes_on() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish_numbers(&context, 0..5).await;
    let mut first = replica_with(&server, &in_order()).await;
    let mut second = replica_with(&server, &in_order()).await;
    let taken = take_numbers(&mut first, Duration::from_secs(10), |taken| taken.len() >= 5).await;

    // Three times the ack wait, in which the first one pulls nothing.
    let working = async {
        for _ in 0..12 {
            for (_, receipt) in &taken {
                first.settler.settle(receipt, Settlement::Extend).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let standing_by = take_numbers(&mut second, Duration::from_secs(6), |taken| !taken.is_empty());
    let ((), standing_by) = tokio::join!(working, standing_by);

    assert_eq!(numbers(&standing_by), [0; 0]);
    publish_numbers(&context, 5..6).await;
    let next = take_numbers(&mut first, Duration::from_secs(5), |taken| !taken.is_empty()).await;
    assert_eq!(numbers(&next), [5], "the first one goes on where it was");
}

#[tokio::test]
async fn in_order_nothing_is_lost_or_overtaken_when_the_server_crashes() {
    let mut server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish_numbers(&context, 0..100).await;
    let mut replica = replica_with(&server, &in_order()).await;
    let mut first_seen = take_numbers(&mut replica, Duration::from_secs(10), |taken| taken.len() >= 40).await;
    for (_, receipt) in first_seen.iter().take(20) {
        replica.settler.settle(receipt, Settlement::Done).await.unwrap();
    }

    server.restart().await;
    let again = take_numbers(&mut replica, Duration::from_secs(20), |taken| taken.last() == Some(&99)).await;
    first_seen.extend(again);

    let mut seen = Vec::new();
    for number in numbers(&first_seen) {
        if !seen.contains(&number) {
            seen.push(number);
        }
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>(), "each is seen for the first time in its order");
}
