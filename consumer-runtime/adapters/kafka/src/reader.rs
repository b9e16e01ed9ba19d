//! Reading Kafka: from the queue of each lane, in turn, as much as there is room for.

use std::{mem, ops::ControlFlow, sync::Arc};

use async_trait::async_trait;
use millrace_core::{
    delivery::{Delivery, Position},
    frontier::Arrival,
    health::Part,
    ports::{ReadError, Reader},
    time::{Clock, Monotonic},
    window::Budget,
};
use rdkafka::error::KafkaError;
use tracing::{debug, warn};

use crate::{
    context::{Shared, Source},
    convert::Record,
    lanes::{EndReached, Held, Lane},
    worker::Worker,
};

/// Reads the lanes that this process is assigned.
pub struct KafkaReader {
    shared: Arc<Shared>,
    worker: Worker,
    clock: Arc<dyn Clock>,
    /// Deliveries taken so far: the position of the last.
    taken: u64,
    /// The lane that comes first the next time.
    turn: usize,
    /// None: kept for the room that it has.
    no_records: Vec<Record>,
}

/// A batch that is being taken.
struct Batch {
    budget: Budget,
    bytes: usize,
    deliveries: Vec<Delivery>,
    now: Monotonic,
}

/// What was taken from the queue of a lane.
struct Taken {
    records: Vec<Record>,
    /// Whether the end of the lane came behind them.
    ended: bool,
}

impl KafkaReader {
    pub(crate) fn new(shared: Arc<Shared>, worker: Worker, clock: Arc<dyn Clock>) -> Self {
        Self { shared, worker, clock, taken: 0, turn: 0, no_records: Vec::new() }
    }

    /// What is there now, within the budget.
    fn take(&mut self, budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        let shared = Arc::clone(&self.shared);
        let mut batch = Batch { budget, bytes: 0, deliveries: Vec::new(), now: self.clock.monotonic() };
        let sources = shared.sources();
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn.checked_rem(sources.len()).unwrap_or_default();
        for source in sources.iter().skip(first).chain(sources.iter().take(first)) {
            self.take_from(source, &mut batch)?;
        }
        Ok(batch.deliveries)
    }

    /// What is there now in one lane, within what is left of the budget. What an earlier reader has settled is passed over.
    fn take_from(&mut self, source: &Source, batch: &mut Batch) -> Result<(), ReadError> {
        while !source.lane.is_full() && batch.has_room_for(0, 0) {
            let Some(Taken { mut records, ended }) = self.take_records(source, batch)? else { return Ok(()) };
            let epochs = self.arrive(&source.lane, &records, ended);
            batch.deliveries.reserve(records.len());
            for (record, epoch) in records.drain(..).zip(epochs) {
                let Some(epoch) = epoch else { continue };
                self.taken = self.taken.wrapping_add(1);
                let delivery = record.delivery(&source.lane, epoch, Position(self.taken), batch.now);
                batch.bytes = batch.bytes.saturating_add(delivery.size());
                batch.deliveries.push(delivery);
            }
            self.no_records = records;
        }
        Ok(())
    }

    /// Some of what is in the queue of a lane; nothing where it is empty. The lane is not locked: what was taken from it before
    /// is being settled meanwhile.
    fn take_records(&mut self, source: &Source, batch: &Batch) -> Result<Option<Taken>, ReadError> {
        let mut taken = Taken { records: mem::take(&mut self.no_records), ended: false };
        let (mut bytes, mut fatal) = (0_usize, None);
        let found = source.queue.take(|record| {
            match record {
                Ok(record) => {
                    let record = Record::from(record);
                    bytes = bytes.saturating_add(record.size);
                    taken.records.push(record);
                    taken.ended = false;
                }
                Err(KafkaError::PartitionEOF(_)) => taken.ended = true,
                Err(KafkaError::MessageConsumptionFatal(code)) => fatal = Some(ReadError::Fatal(code.to_string())),
                Err(error) => self.lane_fails(&source.lane, &error),
            }
            if fatal.is_none() && batch.has_room_for(taken.records.len(), bytes) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        if let Some(fatal) = fatal {
            return Err(fatal);
        }
        if !found {
            self.no_records = taken.records;
            return Ok(None);
        }
        Ok(Some(taken))
    }

    /// Notes records that have come, and whether the end of the lane came behind them. Gives the epoch of each that is a
    /// delivery.
    fn arrive(&self, lane: &Lane, records: &[Record], ended: bool) -> Vec<Option<u64>> {
        let mut guard = lane.held();
        // A lane that is not held has no queue to read from.
        let Some(held) = guard.as_mut() else { return Vec::new() };
        if ended {
            held.end_reached = EndReached::Yes;
        } else if !records.is_empty() {
            held.end_reached = EndReached::No;
        }
        let epochs = records.iter().map(|record| self.arrived(lane, held, record.offset)).collect();
        lane.note_room(held);
        epochs
    }

    fn arrived(&self, lane: &Lane, held: &mut Held, offset: i64) -> Option<u64> {
        let mut arrival = held.frontier.arrive(offset);
        if arrival == Arrival::Behind {
            // What was at work here belongs to a log that is gone; its settlements mean nothing for this one.
            warn!(
                topic = %lane.topic,
                partition = lane.partition,
                offset,
                from = held.frontier.taken(),
                "the log was cut or made anew: the lane starts again"
            );
            *held = lane.restarted(self.shared.lanes.next_epoch(), offset);
            arrival = held.frontier.arrive(offset);
        }
        if arrival == Arrival::New {
            return Some(held.frontier.epoch());
        }
        self.shared.lanes.metrics.skipped.inc();
        None
    }

    fn lane_fails(&self, lane: &Lane, error: &KafkaError) {
        warn!(%error, topic = %lane.topic, partition = lane.partition, "a lane has an error");
        let trouble = self.shared.failure.trouble(&self.shared.options.connection, error);
        self.shared.health.fails(Part::Broker, trouble);
    }
}

impl Batch {
    /// Whether more is to be taken than what there is and so many records of so many bytes. The last may be larger than the
    /// rest of the budget: how large it is shows when it is taken.
    fn has_room_for(&self, records: usize, bytes: usize) -> bool {
        let (messages, bytes) = (self.deliveries.len().saturating_add(records), self.bytes.saturating_add(bytes));
        u32::try_from(messages).is_ok_and(|messages| messages < self.budget.messages)
            && u32::try_from(bytes).is_ok_and(|bytes| bytes < self.budget.bytes)
    }
}

#[async_trait]
impl Reader for KafkaReader {
    async fn next_batch(&mut self, budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        let mut waiting = None;
        loop {
            // No await from the taking to the return: what is taken off the queues is returned.
            if let Some(reason) = self.shared.lanes.fatal.get() {
                return Err(ReadError::Fatal(reason.clone()));
            }
            let batch = self.take(budget)?;
            if !batch.is_empty() {
                self.worker.received();
                return Ok(batch);
            }
            waiting.get_or_insert_with(|| self.worker.waits());
            self.shared.lanes.news.notified().await;
        }
    }

    async fn failed(&mut self) -> String {
        loop {
            if let Some(reason) = self.shared.lanes.fatal.get() {
                return reason.clone();
            }
            // What is told here is not missed later: reading begins by looking.
            self.shared.lanes.news.notified().await;
        }
    }

    async fn rest(&mut self) -> Option<Vec<Delivery>> {
        // What was fetched and not taken stays where it came from.
        debug!("nothing more is taken");
        None
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        // Blocks, for a bounded time: the group is to be left before the process ends.
        self.worker.stop();
    }
}
