//! Loops over rdkafka, with the settings that make it fast.

use std::time::Duration;

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};

use crate::{
    job::{Job, Run},
    ledger::Ledger,
    loops::{Order, Seen},
    meter::Meter,
};

/// How long one request may take, and the joining of a group on a broker that has had none yet.
const REQUEST: Duration = Duration::from_secs(60);

/// The longest wait of one poll.
const POLL: Duration = Duration::from_millis(100);

/// Messages after which what was taken is committed.
const COMMIT_AFTER: u64 = 10_000;

/// Takes.
pub(crate) fn raw(job: &Job, address: &str, partitions: i32) -> Run {
    let mut taken = 0;
    let meter = poll(job, address, partitions, |_| taken += 1);
    let (seconds, cpu_seconds) = meter.stop();
    Run { seconds, cpu_seconds, messages: job.orders.messages, missing: job.orders.messages - taken, doubled: 0 }
}

/// Takes, parses, skips what it has seen, notes the offset.
pub(crate) fn hand_written(job: &Job, address: &str, partitions: i32) -> Run {
    let ledger = Ledger::of(job.orders.events());
    let mut seen = Seen::default();
    let meter = poll(job, address, partitions, |payload| {
        let order: Order<'_> = serde_json::from_slice(payload).unwrap();
        if seen.is_new(order.event_id) {
            ledger.note(order.event_id);
        }
    });
    let (seconds, cpu_seconds) = meter.stop();
    let (missing, doubled) = (ledger.missing(), ledger.doubled());
    Run { seconds, cpu_seconds, messages: job.orders.messages, missing, doubled }
}

/// Polls until everything has come and is committed.
fn poll(job: &Job, address: &str, partitions: i32, mut handle: impl FnMut(&[u8])) -> Meter {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", &job.group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    client.subscribe(&[&job.source]).unwrap();
    let meter = Meter::default();
    let (mut taken, mut next) = (0, vec![0; usize::try_from(partitions).unwrap()]);
    let mut silent = Duration::ZERO;
    while taken < job.orders.messages {
        // Nothing comes while the group is joined, and where an event of the client itself was served.
        let Some(message) = client.poll(POLL) else {
            silent += POLL;
            assert!(silent < REQUEST, "nothing came for {REQUEST:?}");
            continue;
        };
        let message = message.unwrap();
        meter.started();
        handle(message.payload().unwrap_or_default());
        next[usize::try_from(message.partition()).unwrap()] = message.offset() + 1;
        taken += 1;
        if taken.is_multiple_of(COMMIT_AFTER) {
            client.commit(&list(job, &next), CommitMode::Async).unwrap();
        }
    }
    client.commit(&list(job, &next), CommitMode::Sync).unwrap();
    meter
}

fn list(job: &Job, next: &[i64]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(next) {
        list.add_partition_offset(&job.source, partition, Offset::Offset(*offset)).unwrap();
    }
    list
}

/// A look at what a group has committed.
pub(crate) struct Committed {
    client: BaseConsumer,
    topic: String,
    partitions: i32,
    end: i64,
}

impl Committed {
    pub(crate) fn of(job: &Job, address: &str, partitions: i32) -> Self {
        let mut config = ClientConfig::new();
        let client: BaseConsumer =
            config.set("bootstrap.servers", address).set("group.id", &job.group).create().unwrap();
        let end = (0..partitions).map(|one| client.fetch_watermarks(&job.source, one, REQUEST).unwrap().1).sum();
        Self { client, topic: job.source.clone(), partitions, end }
    }

    /// Waits until everything is committed.
    pub(crate) fn wait(&self) {
        loop {
            let mut list = TopicPartitionList::new();
            list.add_partition_range(&self.topic, 0, self.partitions - 1);
            let committed = self.client.committed_offsets(list, REQUEST).unwrap();
            let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
            if committed.elements().iter().map(|one| offset(one.offset())).sum::<i64>() == self.end {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
