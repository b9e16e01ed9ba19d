//! Loops over async-nats, as its documentation has them.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, PullConsumer, pull},
};
use futures::StreamExt;

use crate::{
    job::{Job, Run},
    ledger::Ledger,
    loops::{Order, Seen},
    meter::Meter,
};

/// Messages of one pull.
const BATCH: usize = 1_000;

/// Takes and acks.
pub(crate) async fn raw(job: &Job, url: &str) -> Run {
    let consumer = durable(job, url).await;
    let meter = Meter::default();
    let mut messages = consumer.stream().max_messages_per_batch(BATCH).messages().await.unwrap();
    let mut taken = 0;
    if job.sleep_ms > 0 {
        // The ideal of a handler that waits.
        let sleep = Duration::from_millis(job.sleep_ms);
        let ledger = Ledger::of(job.orders.events());
        let handled = messages.take(usize::try_from(job.orders.messages).unwrap()).map(|message| async {
            let message = message.unwrap();
            meter.started();
            let order: Order<'_> = serde_json::from_slice(&message.payload).unwrap();
            tokio::time::sleep(sleep).await;
            ledger.note(order.event_id);
            message.ack().await.unwrap();
        });
        let mut handled = handled.buffer_unordered(256);
        while handled.next().await.is_some() {}
        return settled(consumer, &meter, job, ledger.missing(), ledger.doubled()).await;
    }
    while taken < job.orders.messages {
        let message = messages.next().await.unwrap().unwrap();
        meter.started();
        message.ack().await.unwrap();
        taken += 1;
    }
    settled(consumer, &meter, job, job.orders.messages - taken, 0).await
}

/// Takes, parses, skips what it has seen, acks.
pub(crate) async fn hand_written(job: &Job, url: &str) -> Run {
    let consumer = durable(job, url).await;
    let meter = Meter::default();
    let ledger = Ledger::of(job.orders.events());
    let mut messages = consumer.stream().max_messages_per_batch(BATCH).messages().await.unwrap();
    let (mut taken, mut seen) = (0, Seen::default());
    while taken < job.orders.messages {
        let message = messages.next().await.unwrap().unwrap();
        meter.started();
        let order: Order<'_> = serde_json::from_slice(&message.payload).unwrap();
        if seen.is_new(order.event_id) {
            ledger.note(order.event_id);
        }
        message.ack().await.unwrap();
        taken += 1;
    }
    settled(consumer, &meter, job, ledger.missing(), ledger.doubled()).await
}

async fn durable(job: &Job, url: &str) -> PullConsumer {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let stream = context.get_stream(&job.source).await.unwrap();
    let config = pull::Config {
        durable_name: Some(job.group.clone()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 20_000,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap()
}

async fn settled(consumer: PullConsumer, meter: &Meter, job: &Job, missing: u64, doubled: u64) -> Run {
    until_settled(consumer).await;
    let (seconds, cpu_seconds) = meter.stop();
    Run { seconds, cpu_seconds, messages: job.orders.messages, missing, doubled }
}

/// Waits until the server has delivered everything and every delivery is settled.
pub(crate) async fn until_settled(mut consumer: PullConsumer) {
    loop {
        let info = consumer.info().await.unwrap();
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
