//! What every source promises: its reader and settler together.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    delivery::Delivery,
    ports::{Reader, Redelivery, Settler},
    settle::Settlement,
    window::Budget,
};
use millrace_events::Headers;

/// A source under test.
#[async_trait]
pub trait SourceUnderTest: Send + Sync {
    /// Publishes one message where the source reads.
    async fn publish(&self, headers: Headers, payload: Bytes);
    /// A reader and a settler of the source, as one process has them. Called again, as a second replica.
    async fn open(&self) -> (Box<dyn Reader>, Arc<dyn Settler>);
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the suite. The source's ack wait, where it has one, must be at most 3 s.
pub async fn run(source: &dyn SourceUnderTest) {
    a_message_arrives_as_it_was_published(source).await;
    a_batch_is_never_larger_than_the_budget(source).await;
    let (_, settler) = source.open().await;
    if settler.redelivery() == Redelivery::ToTheNextReader {
        what_is_done_is_settled_for_the_next_reader_and_what_is_let_go_of_is_delivered_to_it(source).await;
    }
    if settler.redelivery().ack_wait().is_some() {
        what_is_done_is_not_delivered_again_and_what_is_unsettled_is(source).await;
        a_retry_comes_after_its_delay_and_not_before(source).await;
        what_is_handed_back_at_a_stop_reaches_the_next_replica_at_once(source).await;
    }
}

async fn read(reader: &mut dyn Reader, messages: u32) -> Vec<Delivery> {
    let budget = Budget { messages, bytes: 1_000_000 };
    tokio::time::timeout(PATIENCE, reader.next_batch(budget)).await.expect("nothing was delivered in time").unwrap()
}

async fn read_exactly(reader: &mut dyn Reader, messages: u32) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < messages as usize {
        let missing = messages - u32::try_from(deliveries.len()).unwrap();
        deliveries.extend(read(reader, missing).await);
    }
    deliveries
}

/// Leaves, and returns what came all the same.
async fn leave(reader: &mut dyn Reader) -> Vec<Delivery> {
    let mut rest = Vec::new();
    while let Some(batch) = reader.rest().await {
        rest.extend(batch);
    }
    rest
}

async fn publish(source: &dyn SourceUnderTest, payload: &'static str) {
    source.publish(Headers::new(), Bytes::from_static(payload.as_bytes())).await;
}

async fn a_message_arrives_as_it_was_published(source: &dyn SourceUnderTest) {
    let (mut reader, settler) = source.open().await;
    let mut headers = Headers::new();
    headers.push("ce-id", "1");
    headers.push("X-Other", "a b");
    let payload = Bytes::from_static(b"\x00\xff not text");

    source.publish(headers.clone(), payload.clone()).await;

    let delivery = read_exactly(reader.as_mut(), 1).await.remove(0);
    assert_eq!(delivery.payload, payload);
    for (name, value) in headers.iter() {
        assert_eq!(delivery.headers.get(name), Some(value), "{name}");
    }
    assert_eq!(delivery.delivered_count, 1);
    settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    settler.flush().await.unwrap();
    leave(reader.as_mut()).await;
}

async fn a_batch_is_never_larger_than_the_budget(source: &dyn SourceUnderTest) {
    let (mut reader, settler) = source.open().await;
    for _ in 0..10 {
        publish(source, "{}").await;
    }
    let mut taken = 0;
    while taken < 10 {
        let batch = read(reader.as_mut(), 3).await;
        assert!((1..=3).contains(&batch.len()), "{}", batch.len());
        taken += batch.len();
        for delivery in batch {
            settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
        }
    }
    settler.flush().await.unwrap();
    leave(reader.as_mut()).await;
}

async fn what_is_done_is_not_delivered_again_and_what_is_unsettled_is(source: &dyn SourceUnderTest) {
    let (mut reader, settler) = source.open().await;
    publish(source, "done").await;
    publish(source, "unsettled").await;
    let first = read_exactly(reader.as_mut(), 2).await;
    settler.settle(&first[0].receipt, Settlement::Done).await.unwrap();

    let again = read_exactly(reader.as_mut(), 1).await.remove(0);

    assert_eq!(again.payload, "unsettled");
    assert_eq!(again.delivered_count, 2);
    settler.settle(&again.receipt, Settlement::Done).await.unwrap();
    settler.flush().await.unwrap();
    leave(reader.as_mut()).await;
}

async fn what_is_done_is_settled_for_the_next_reader_and_what_is_let_go_of_is_delivered_to_it(
    source: &dyn SourceUnderTest,
) {
    let (mut reader, settler) = source.open().await;
    for payload in ["let go of", "done"] {
        publish(source, payload).await;
    }
    for delivery in read_exactly(reader.as_mut(), 2).await {
        assert!(settler.owns(&delivery.receipt));
        let settlement =
            if delivery.payload == "done" { Settlement::Done } else { Settlement::RetryAfter(Duration::ZERO) };
        settler.settle(&delivery.receipt, settlement).await.unwrap();
    }
    settler.flush().await.unwrap();
    leave(reader.as_mut()).await;
    drop(reader);

    publish(source, "new").await;
    let (mut next, settler) = source.open().await;
    let mut payloads = Vec::new();
    for delivery in read_exactly(next.as_mut(), 2).await {
        settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
        payloads.push(delivery.payload);
    }
    settler.flush().await.unwrap();
    payloads.sort_unstable();
    assert_eq!(payloads, ["let go of", "new"]);
    leave(next.as_mut()).await;
}

async fn a_retry_comes_after_its_delay_and_not_before(source: &dyn SourceUnderTest) {
    let (mut reader, settler) = source.open().await;
    publish(source, "later").await;
    let first = read_exactly(reader.as_mut(), 1).await.remove(0);
    let delay = Duration::from_millis(700);
    let asked_at = tokio::time::Instant::now();

    settler.settle(&first.receipt, Settlement::RetryAfter(delay)).await.unwrap();
    let again = read_exactly(reader.as_mut(), 1).await.remove(0);

    assert!(asked_at.elapsed() >= delay, "came after {:?}", asked_at.elapsed());
    settler.settle(&again.receipt, Settlement::Done).await.unwrap();
    settler.flush().await.unwrap();
    leave(reader.as_mut()).await;
}

async fn what_is_handed_back_at_a_stop_reaches_the_next_replica_at_once(source: &dyn SourceUnderTest) {
    let (mut leaving, settler) = source.open().await;
    for _ in 0..20 {
        publish(source, "{}").await;
    }
    let mut taken = read(leaving.as_mut(), 20).await;
    taken.extend(leave(leaving.as_mut()).await);
    assert_eq!(taken.len(), 20);
    for delivery in &taken {
        settler.settle(&delivery.receipt, Settlement::RetryAfter(Duration::ZERO)).await.unwrap();
    }
    settler.flush().await.unwrap();

    let (mut next, settler) = source.open().await;
    let started = tokio::time::Instant::now();
    for delivery in read_exactly(next.as_mut(), 20).await {
        assert_eq!(delivery.delivered_count, 2, "handed back once, delivered again once");
        settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }
    settler.flush().await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "took {:?}: something was left to the ack wait",
        started.elapsed()
    );
    leave(next.as_mut()).await;
}
