//! A broker in memory, with the habits that hurt. Like JetStream it redelivers what is not settled in time, matches
//! settlements by sequence and not by holder, and, when told to, forgets acks that it has confirmed. Like Kafka it takes
//! deliveries back from a reader that lives, and gives what is not settled to the next reader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use millrace_core::{
    delivery::{Delivery, Place, Position, Receipt},
    ports::{DeadLetterError, DeadLetters, ReadError, Reader, Redelivery, SettleError, Settler},
    settle::Settlement,
    time::{Clock, Monotonic},
    window::Budget,
};
use millrace_events::{BrokerKind, DeadLetter, Headers, Origin};
use tokio::sync::Notify;

use crate::faults::FaultPlan;

/// A broker in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryBroker {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    redelivery: Redelivery,
    news: Arc<Notify>,
    /// Faults of `next_batch`.
    pub read_faults: Arc<FaultPlan>,
    /// Faults of `next_batch` that nothing mends.
    pub fatal_faults: Arc<FaultPlan>,
    /// Faults of `dropped`: a delivery had no room.
    pub room_faults: Arc<FaultPlan>,
    /// Faults of `settle`: the settlement does not arrive.
    pub settle_faults: Arc<FaultPlan>,
    /// Faults of `settle`: it does not return.
    pub silence_faults: Arc<FaultPlan>,
    /// Faults of confirmations: the settlement arrives and the answer does not.
    pub confirm_faults: Arc<FaultPlan>,
    /// Faults of dead letters.
    pub dead_letter_faults: Arc<FaultPlan>,
}

#[derive(Default)]
struct State {
    next_sequence: u64,
    messages: BTreeMap<u64, Message>,
    dead_letters: Vec<DeadLetter>,
    /// Every settlement that arrived, in order.
    settlements: Vec<(u64, Settlement)>,
    /// What its reader owns no longer.
    taken_back: BTreeSet<u64>,
}

struct Message {
    headers: Headers,
    payload: Bytes,
    published_at: Timestamp,
    delivered: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Phase {
    /// May be delivered from this time on.
    Ready(Monotonic),
    /// Delivered; delivered again at this time unless settled.
    Pending(Option<Monotonic>),
    Settled,
}

impl MemoryBroker {
    /// A broker that delivers again as JetStream, Kafka or NATS core do.
    pub fn new(clock: Arc<dyn Clock>, redelivery: Redelivery) -> Self {
        Self {
            state: Arc::default(),
            clock,
            redelivery,
            news: Arc::default(),
            read_faults: Arc::default(),
            fatal_faults: Arc::default(),
            room_faults: Arc::default(),
            settle_faults: Arc::default(),
            silence_faults: Arc::default(),
            confirm_faults: Arc::default(),
            dead_letter_faults: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Publishes a message and returns its sequence.
    pub fn publish(&self, headers: Headers, payload: impl Into<Bytes>) -> u64 {
        self.publish_at(self.clock.wall(), headers, payload)
    }

    /// Publishes a message as if it had been published at another time.
    pub fn publish_at(&self, published_at: Timestamp, headers: Headers, payload: impl Into<Bytes>) -> u64 {
        let mut state = self.state();
        state.next_sequence += 1;
        let sequence = state.next_sequence;
        let phase = Phase::Ready(self.clock.monotonic());
        state
            .messages
            .insert(sequence, Message { headers, payload: payload.into(), published_at, delivered: 0, phase });
        self.news.notify_one();
        sequence
    }

    /// Forgets that a message was delivered and settled, as a server may after a crash: it comes again with a count
    /// of 1.
    pub fn forget_ack(&self, sequence: u64) {
        let mut state = self.state();
        let message = state.messages.get_mut(&sequence).expect("the message was published");
        message.delivered = 0;
        message.phase = Phase::Ready(self.clock.monotonic());
        self.news.notify_one();
    }

    /// Whether every message is settled.
    pub fn is_settled(&self) -> bool {
        self.state().messages.values().all(|message| message.phase == Phase::Settled)
    }

    /// How often a message was delivered.
    pub fn delivered(&self, sequence: u64) -> u32 {
        self.state().messages[&sequence].delivered
    }

    /// The dead letters so far.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.state().dead_letters.clone()
    }

    /// The settlements that arrived, in order.
    pub fn settlements(&self) -> Vec<(u64, Settlement)> {
        self.state().settlements.clone()
    }

    /// A reader of this broker. Where the next reader gets what is not settled, it is this one.
    pub fn reader(&self) -> MemoryReader {
        if self.redelivery == Redelivery::ToTheNextReader {
            let now = self.clock.monotonic();
            let mut state = self.state();
            state.taken_back.clear();
            for message in state.messages.values_mut().filter(|message| message.phase != Phase::Settled) {
                message.phase = Phase::Ready(now);
            }
        }
        MemoryReader(self.clone())
    }

    /// Takes a delivery back from its reader.
    pub fn take_back(&self, sequence: u64) {
        self.state().taken_back.insert(sequence);
    }

    fn take_due(&self, limit: u32) -> Vec<Delivery> {
        let now = self.clock.monotonic();
        let ack_wait = self.redelivery.ack_wait();
        let mut state = self.state();
        let due = state.messages.iter_mut().filter(|(_, message)| match message.phase {
            Phase::Ready(from) => from <= now,
            Phase::Pending(until) => until.is_some_and(|until| until <= now),
            Phase::Settled => false,
        });
        due.take(limit as usize)
            .map(|(sequence, message)| {
                message.delivered += 1;
                message.phase = Phase::Pending(ack_wait.map(|wait| now.after(wait)));
                Delivery {
                    position: Position(*sequence),
                    delivered_count: message.delivered,
                    receipt: receipt(*sequence),
                    lane: 0,
                    origin: Origin {
                        broker: BrokerKind::JetStream,
                        stream: Some("MEMORY".into()),
                        partition: None,
                        subject: "orders.placed".into(),
                        sequence: Some(*sequence),
                    },
                    headers: message.headers.clone(),
                    payload: message.payload.clone(),
                    key: None,
                    published_at: Some(message.published_at),
                    received_at: now,
                }
            })
            .collect()
    }

    /// The time until the next message is due, if one ever is without news.
    fn next_due(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let due = self
            .state()
            .messages
            .values()
            .filter_map(|message| match message.phase {
                Phase::Ready(from) => Some(from),
                Phase::Pending(until) => until,
                Phase::Settled => None,
            })
            .min();
        due.map(|due| due.since(now))
    }
}

fn receipt(sequence: u64) -> Receipt {
    Receipt::Place(Place { lane: 0, epoch: 0, offset: sequence.try_into().unwrap() })
}

fn sequence(receipt: &Receipt) -> u64 {
    let Receipt::Place(place) = receipt else { panic!("not a receipt of this broker: {receipt:?}") };
    place.offset.try_into().unwrap()
}

/// Reads a [`MemoryBroker`].
pub struct MemoryReader(MemoryBroker);

#[async_trait]
impl Reader for MemoryReader {
    async fn next_batch(&mut self, budget: Budget) -> Result<Vec<Delivery>, ReadError> {
        loop {
            if self.0.fatal_faults.strikes() {
                return Err(ReadError::Fatal("injected".to_owned()));
            }
            if self.0.read_faults.strikes() {
                return Err(ReadError::ForNow("injected".to_owned()));
            }
            let batch = self.0.take_due(budget.messages);
            if !batch.is_empty() {
                return Ok(batch);
            }
            let news = self.0.news.notified();
            match self.0.next_due() {
                Some(wait) => drop(tokio::time::timeout(wait.max(Duration::from_millis(1)), news).await),
                None => news.await,
            }
        }
    }

    fn dropped(&mut self) -> u64 {
        self.0.room_faults.strikes().into()
    }

    async fn rest(&mut self) -> Option<Vec<Delivery>> {
        None
    }
}

#[async_trait]
impl Settler for MemoryBroker {
    async fn settle(&self, receipt: &Receipt, settlement: Settlement) -> Result<(), SettleError> {
        if self.silence_faults.strikes() {
            return std::future::pending().await;
        }
        if self.settle_faults.strikes() {
            return Err(SettleError("injected".to_owned()));
        }
        let now = self.clock.monotonic();
        let sequence = sequence(receipt);
        let mut state = self.state();
        state.settlements.push((sequence, settlement));
        let message = state.messages.get_mut(&sequence).expect("the message was delivered");
        message.phase = match settlement {
            Settlement::Done => Phase::Settled,
            Settlement::RetryAfter(_) if self.redelivery == Redelivery::ToTheNextReader => Phase::Pending(None),
            Settlement::RetryAfter(delay) => Phase::Ready(now.after(delay)),
            Settlement::Extend => Phase::Pending(self.redelivery.ack_wait().map(|wait| now.after(wait))),
        };
        drop(state);
        self.news.notify_one();
        if self.confirm_faults.strikes() {
            return Err(SettleError("injected: the confirmation was lost".to_owned()));
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), SettleError> {
        Ok(())
    }

    fn owns(&self, receipt: &Receipt) -> bool {
        !self.state().taken_back.contains(&sequence(receipt))
    }

    fn redelivery(&self) -> Redelivery {
        self.redelivery
    }
}

#[async_trait]
impl DeadLetters for MemoryBroker {
    async fn publish(&self, dead_letter: &DeadLetter) -> Result<(), DeadLetterError> {
        if self.dead_letter_faults.strikes() {
            return Err(DeadLetterError("injected".to_owned()));
        }
        let mut state = self.state();
        // As a stream does within its duplicate window.
        if state.dead_letters.iter().all(|known| known.id != dead_letter.id) {
            state.dead_letters.push(dead_letter.clone());
        }
        Ok(())
    }
}
