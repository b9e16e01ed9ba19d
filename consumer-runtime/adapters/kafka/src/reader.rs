//! Reading Kafka: from the queue of each lane, in turn, as much as there is room for.

use std::sync::Arc;

use async_trait::async_trait;
use millrace_core::{
    delivery::{Delivery, Position},
    frontier::Arrival,
    health::Part,
    ports::{ReadError, Reader},
    time::{Clock, Monotonic},
    window::Budget,
};
use rdkafka::{Message as _, error::KafkaError, message::BorrowedMessage};
use tracing::{debug, warn};

use crate::{
    context::{Shared, Source},
    convert::delivery,
    lanes::{EndReached, Held},
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
}

/// A batch that is being taken.
struct Batch {
    budget: Budget,
    bytes: usize,
    deliveries: Vec<Delivery>,
    now: Monotonic,
}

impl KafkaReader {
    pub(crate) fn new(shared: Arc<Shared>, worker: Worker, clock: Arc<dyn Clock>) -> Self {
        Self { shared, worker, clock, taken: 0, turn: 0 }
    }

    /// What is there now, within the budget.
    fn take(&mut self, budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        let shared = Arc::clone(&self.shared);
        let mut batch = Batch { budget, bytes: 0, deliveries: Vec::new(), now: self.clock.monotonic() };
        let sources = shared.sources();
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn.checked_rem(sources.len()).unwrap_or_default();
        for source in sources.iter().skip(first).chain(sources.iter().take(first)) {
            if batch.is_full() {
                break;
            }
            self.take_from(source, &mut batch)?;
        }
        Ok(batch.deliveries)
    }

    fn take_from(&mut self, source: &Source, batch: &mut Batch) -> Result<(), ReadError> {
        let mut guard = source.lane.held();
        let Some(held) = guard.as_mut() else { return Ok(()) };
        while !batch.is_full() && source.lane.has_room(held) {
            match source.queue.poll(std::time::Duration::ZERO) {
                None => return Ok(()),
                Some(Ok(message)) => self.arrived(source, held, &message, batch),
                Some(Err(KafkaError::PartitionEOF(_))) => held.end_reached = EndReached::Yes,
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => return Err(ReadError::Fatal(code.to_string())),
                Some(Err(error)) => {
                    warn!(%error, topic = source.lane.topic, partition = source.lane.partition, "a lane has an error");
                    self.shared
                        .health
                        .fails(Part::Broker, self.shared.failure.trouble(&self.shared.options.connection, &error));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn arrived(&mut self, source: &Source, held: &mut Held, message: &BorrowedMessage<'_>, batch: &mut Batch) {
        let lane = &source.lane;
        held.end_reached = EndReached::No;
        let mut arrival = held.frontier.arrive(message.offset());
        if arrival == Arrival::Behind {
            // What was at work here belongs to a log that is gone; its settlements mean nothing for this one.
            warn!(
                topic = lane.topic,
                partition = lane.partition,
                offset = message.offset(),
                from = held.frontier.taken(),
                "the log was cut or made anew: the lane starts again"
            );
            *held = lane.restarted(self.shared.lanes.next_epoch(), message.offset());
            arrival = held.frontier.arrive(message.offset());
        }
        match arrival {
            Arrival::New => {
                self.taken = self.taken.wrapping_add(1);
                let position = Position(self.taken);
                let delivery = delivery(message, lane, held.frontier.epoch(), position, batch.now);
                batch.bytes = batch.bytes.saturating_add(delivery.size());
                batch.deliveries.push(delivery);
            }
            Arrival::Settled | Arrival::Behind => {
                self.shared.lanes.metrics.skipped.inc();
            }
        }
    }
}

impl Batch {
    /// Whether nothing more is to be taken. The last delivery may be larger than the rest of the budget: how large it is
    /// shows when it is taken.
    fn is_full(&self) -> bool {
        u32::try_from(self.deliveries.len()).unwrap_or(u32::MAX) >= self.budget.messages
            || u32::try_from(self.bytes).unwrap_or(u32::MAX) >= self.budget.bytes
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
