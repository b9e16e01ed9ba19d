//! What the source promises: the contract of all sources, and what only Kafka has.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    delivery::Delivery,
    health::{Part, TroubleReason},
    ports::{LagProbe as _, Reader, Settler},
    settle::Settlement,
    window::Budget,
};
use millrace_events::Headers;
use millrace_kafka::{InitialPosition, LagProbe};
use millrace_testkit::{
    contract::source::{self, SourceUnderTest},
    kafka_server::{KafkaPublisher, KafkaServer},
    wait::eventually,
};

use crate::support::{PATIENCE, open_source, options, read, try_to_open};

struct Kafka {
    server: KafkaServer,
    publisher: KafkaPublisher,
}

#[async_trait]
impl SourceUnderTest for Kafka {
    async fn publish(&self, headers: Headers, payload: Bytes) {
        self.publisher.send("orders", None, &headers, Some(&payload));
        self.publisher.flush();
    }

    async fn open(&self) -> (Box<dyn Reader>, Arc<dyn Settler>) {
        let opened = open_source(&options(self.server.bootstrap(), "orders", "contract")).await;
        (Box::new(opened.source.reader), Arc::new(opened.source.settler))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_source_keeps_the_contract_of_all_sources() {
    let server = KafkaServer::start().await;
    server.create_topic("orders", 3, &[]).await;
    let publisher = server.publisher();

    source::run(&Kafka { server, publisher }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_shows_what_only_kafka_has() {
    let mut server = KafkaServer::start().await;
    what_is_settled_behind_a_slow_delivery_is_not_delivered_to_the_next_reader(&server).await;
    what_has_been_read_to_its_end_is_committed_without_waiting_for_the_interval(&server).await;
    a_rebalance_at_the_end_of_a_lane_passes_over_nothing_and_repeats_nothing(&server).await;
    a_group_that_starts_at_the_end_loses_nothing_when_its_lane_moves(&server).await;
    records_come_with_key_time_lane_and_origin_and_gaps_do_not_matter(&server).await;
    a_topic_that_was_made_anew_is_read_from_its_beginning(&server).await;
    a_quiet_topic_does_not_hold_up_a_busy_one(&server).await;
    a_missing_topic_is_a_trouble_with_its_name(&server).await;
    a_broker_that_crashes_is_a_trouble_until_it_is_back(&mut server).await;
    a_broker_that_stays_away_keeps_nobody_from_leaving(&mut server).await;
}

async fn what_is_settled_behind_a_slow_delivery_is_not_delivered_to_the_next_reader(server: &KafkaServer) {
    const COUNT: usize = 20_000;
    server.create_topic("slow", 1, &[]).await;
    let publisher = server.publisher();
    for number in 0..COUNT {
        publisher.send("slow", None, &Headers::new(), Some(number.to_string().as_bytes()));
    }
    publisher.flush();
    let options = options(server.bootstrap(), "slow", "slow");
    let mut first = open_source(&options).await;
    // The second half of what was taken is settled in the order of its last digits, so that the set has many holes.
    let deliveries = read(&mut first.source.reader, COUNT).await;
    for delivery in deliveries.iter().filter(|delivery| delivery.payload != "7") {
        first.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }
    eventually("the commit says what is settled above it", PATIENCE, || {
        let (position, metadata) = server.committed("slow", "slow", 1).remove(0);
        position == Some(7) && !metadata.is_empty()
    })
    .await;
    drop(first);

    publisher.send("slow", None, &Headers::new(), Some(b"new"));
    publisher.flush();
    let mut next = open_source(&options).await;
    let again = read(&mut next.source.reader, 2).await;

    assert_eq!(again.iter().map(|delivery| delivery.payload.clone()).collect::<Vec<_>>(), ["7", "new"]);
    assert_eq!(next.metrics.skipped.get(), u64::try_from(COUNT - 8).unwrap());
    for delivery in &again {
        next.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }
    next.source.settler.flush().await.unwrap();
    assert_eq!(server.committed("slow", "slow", 1), [(Some(20_001), String::new())]);
}

/// A process that dies at rest has nothing delivered again, and who looks at the group sees no lag.
async fn what_has_been_read_to_its_end_is_committed_without_waiting_for_the_interval(server: &KafkaServer) {
    server.create_topic("quiet", 1, &[]).await;
    let publisher = server.publisher();
    (0..3).for_each(|_| publisher.send("quiet", None, &Headers::new(), Some(b"x")));
    publisher.flush();
    let mut options = options(server.bootstrap(), "quiet", "quiet");
    options.timing.commit_interval = Duration::from_secs(3600);
    let mut opened = open_source(&options).await;
    for delivery in read(&mut opened.source.reader, 3).await {
        opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }

    let reading = opened.source.reader.next_batch(Budget { messages: 1, bytes: 1 });
    let committed = eventually("it is committed", PATIENCE, || server.committed("quiet", "quiet", 1)[0].0 == Some(3));
    tokio::select! {
        read = reading => panic!("nothing more was published: {read:?}"),
        () = committed => {}
    }
}

/// The client library itself throws away what it has fetched and goes on where it was read to: the end of a lane must not
/// count as read.
async fn a_rebalance_at_the_end_of_a_lane_passes_over_nothing_and_repeats_nothing(server: &KafkaServer) {
    const COUNT: usize = 20;
    server.create_topic("end", 2, &[]).await;
    let publisher = server.publisher();
    let publish = |numbers: std::ops::Range<usize>| {
        for number in numbers.map(|number| number.to_string()) {
            publisher.send("end", Some(number.as_bytes()), &Headers::new(), Some(number.as_bytes()));
        }
        publisher.flush();
    };
    publish(0..COUNT);
    let options = options(server.bootstrap(), "end", "end");
    let mut first = open_source(&options).await.source;
    for delivery in read(&mut first.reader, COUNT).await {
        first.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }

    let budget = Budget { messages: 1000, bytes: 1_000_000 };
    let joining = async {
        let second = open_source(&options).await.source;
        let has_one = |lag: &LagProbe| lag.lanes() == Some(1);
        eventually("each has a lane", PATIENCE, || has_one(&first.lag) && has_one(&second.lag)).await;
        publish(COUNT..3 * COUNT);
        second
    };
    let (come, mut second) = tokio::join!(first.reader.next_batch(budget), joining);
    let mut come = come.unwrap();
    let reading = async {
        while come.len() < 2 * COUNT {
            let batch = tokio::select! {
                batch = first.reader.next_batch(budget) => batch,
                batch = second.reader.next_batch(budget) => batch,
            };
            come.extend(batch.unwrap());
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;

    let number = |delivery: &Delivery| std::str::from_utf8(&delivery.payload).unwrap().parse::<usize>().unwrap();
    let mut numbers: Vec<usize> = come.iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (COUNT..3 * COUNT).collect::<Vec<_>>(), "{read:?}");
}

async fn a_group_that_starts_at_the_end_loses_nothing_when_its_lane_moves(server: &KafkaServer) {
    server.create_topic("latest", 1, &[]).await;
    let publisher = server.publisher();
    publisher.send("latest", None, &Headers::new(), Some(b"old"));
    publisher.flush();
    let mut options = options(server.bootstrap(), "latest", "latest");
    options.initial_position = InitialPosition::Latest;

    let first = open_source(&options).await;
    eventually("the end is committed before anything comes", PATIENCE, || {
        server.committed("latest", "latest", 1) == [(Some(1), String::new())]
    })
    .await;
    drop(first);
    publisher.send("latest", None, &Headers::new(), Some(b"new"));
    publisher.flush();

    let mut next = open_source(&options).await;
    assert_eq!(read(&mut next.source.reader, 1).await[0].payload, "new");
}

async fn records_come_with_key_time_lane_and_origin_and_gaps_do_not_matter(server: &KafkaServer) {
    // Compaction leaves only the last record of a key.
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "100"),
    ];
    server.create_topic("compacted", 1, &settings).await;
    let publisher = server.publisher();
    for round in 0..20 {
        for key in ["a", "b"] {
            publisher.send("compacted", Some(key.as_bytes()), &Headers::new(), Some(b"{}"));
        }
        publisher.flush();
        tokio::time::sleep(Duration::from_millis(if round % 5 == 4 { 150 } else { 1 })).await;
    }
    let options = options(server.bootstrap(), "compacted", "compacted");
    let mut opened = open_source(&options).await;
    let mut last = None;
    while last != Some(39) {
        for delivery in opened.source.reader.next_batch(Budget { messages: 10, bytes: 1_000_000 }).await.unwrap() {
            let sequence = delivery.origin.sequence;
            assert!(sequence > last, "{sequence:?} came after {last:?}");
            assert_eq!(delivery.origin.to_string(), format!("kafka://compacted/0#{}", sequence.unwrap()));
            assert!(delivery.key.is_some() && delivery.published_at.is_some() && delivery.lane == 0);
            last = sequence;
            opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
        }
    }
    opened.source.settler.flush().await.unwrap();
    assert_eq!(server.committed("compacted", "compacted", 1)[0].0, Some(40));
    eventually("nothing waits", PATIENCE, || opened.health.is_ready()).await;
    let mut lag = opened.source.lag.pending().await;
    while lag != Some(0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        lag = opened.source.lag.pending().await;
    }
    assert_eq!((opened.source.lag.lanes(), opened.source.lag.is_share()), (Some(1), true));
    // A tombstone has a key and nothing else.
    publisher.send("compacted", Some(b"a"), &Headers::new(), None);
    publisher.flush();
    let tombstone = read(&mut opened.source.reader, 1).await.remove(0);
    assert_eq!((tombstone.key.as_deref(), tombstone.payload.len()), (Some(b"a".as_slice()), 0));
}

async fn a_topic_that_was_made_anew_is_read_from_its_beginning(server: &KafkaServer) {
    server.create_topic("anew", 1, &[]).await;
    let publisher = server.publisher();
    for number in 0..10 {
        publisher.send("anew", None, &Headers::new(), Some(format!("old {number}").as_bytes()));
    }
    publisher.flush();
    let options = options(server.bootstrap(), "anew", "anew");
    let mut opened = open_source(&options).await;
    for delivery in read(&mut opened.source.reader, 10).await {
        opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }
    drop(opened);
    server.delete_topic("anew").await;
    eventually("the topic is gone", PATIENCE, || server.committed("anew", "anew", 1)[0].0.is_none()).await;
    server.create_topic("anew", 1, &[]).await;
    let publisher = server.publisher();
    publisher.send("anew", None, &Headers::new(), Some(b"new"));
    publisher.flush();
    let mut next = open_source(&options).await;
    assert_eq!(read(&mut next.source.reader, 1).await[0].payload, "new");
}

/// A connection has one fetch at a time. While the queue of the busy lane is full it is of the quiet one alone, and what is new in
/// the busy one waits until the broker ends it.
async fn a_quiet_topic_does_not_hold_up_a_busy_one(server: &KafkaServer) {
    const COUNT: usize = 16_000;
    server.create_topic("resting", 1, &[]).await;
    server.create_topic("busy", 1, &[]).await;
    let publisher = server.publisher();
    for _ in 0..COUNT {
        publisher.send("busy", None, &Headers::new(), Some(&[b'x'; 1_000]));
    }
    publisher.flush();
    let mut options = options(server.bootstrap(), "busy", "busy");
    options.topics.push("resting".to_owned());
    // The queue takes what one fetch brings.
    options.prefetch_bytes = 1024 * 1024;
    let mut opened = open_source(&options).await;
    read(&mut opened.source.reader, 1).await;
    let started = Instant::now();

    read(&mut opened.source.reader, COUNT - 1).await;

    let took = started.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

async fn a_missing_topic_is_a_trouble_with_its_name(server: &KafkaServer) {
    let trouble = try_to_open(&options(server.bootstrap(), "nope", "nope")).await.err().unwrap();
    assert_eq!(trouble.reason, TroubleReason::TopicNotFound);
    assert!(trouble.message.contains("\"nope\" of subjects"), "{trouble}");

    let mut dead_letters = options(server.bootstrap(), "slow", "nope");
    dead_letters.dead_letter_topic = Some("dlq.nope".to_owned());
    let trouble = try_to_open(&dead_letters).await.err().unwrap();
    assert_eq!(trouble.reason, TroubleReason::TopicNotFound);
    assert!(trouble.message.contains("\"dlq.nope\" of delivery.deadLetter.subject"), "{trouble}");
}

async fn a_broker_that_crashes_is_a_trouble_until_it_is_back(server: &mut KafkaServer) {
    server.create_topic("crash", 1, &[]).await;
    let mut opened = open_source(&options(server.bootstrap(), "crash", "crash")).await;
    eventually("the source is ready", PATIENCE, || opened.health.is_ready()).await;

    server.kill();
    eventually("the crash is noticed", PATIENCE, || {
        opened
            .health
            .troubles()
            .iter()
            .any(|(part, trouble)| *part == Part::Broker && trouble.reason == TroubleReason::Unreachable)
    })
    .await;
    server.restart().await;
    eventually("the source is ready again", PATIENCE, || opened.health.is_ready()).await;

    let publisher = server.publisher();
    publisher.send("crash", None, &Headers::new(), Some(b"after"));
    publisher.flush();
    assert_eq!(read(&mut opened.source.reader, 1).await[0].payload, "after");
}

async fn a_broker_that_stays_away_keeps_nobody_from_leaving(server: &mut KafkaServer) {
    server.create_topic("away", 1, &[]).await;
    let publisher = server.publisher();
    publisher.send("away", None, &Headers::new(), Some(b"x"));
    publisher.flush();
    let mut opened = open_source(&options(server.bootstrap(), "away", "away")).await;
    let delivery = read(&mut opened.source.reader, 1).await.remove(0);
    opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    server.kill();

    let started = std::time::Instant::now();
    drop(opened);
    assert!(started.elapsed() < Duration::from_secs(12), "took {:?}", started.elapsed());

    let trouble = try_to_open(&options(server.bootstrap(), "away", "away")).await.err().unwrap();
    assert_eq!(trouble.reason, TroubleReason::Unreachable);
    assert!(started.elapsed() < Duration::from_secs(27), "took {:?}", started.elapsed());
}
