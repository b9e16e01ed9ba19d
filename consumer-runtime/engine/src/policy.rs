//! The settings of the engine, as plain values.

use std::time::Duration;

use millrace_core::{
    backoff::Backoff, key::ConsumerName, order::Ordering, pick::Pick, rate::Rate, retry::RetryPolicy, routing::Routing,
};

use crate::circuit::CircuitPolicy;

/// The settings of the engine. Every queue, wait and retry in it has its bound here.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Who consumes. Part of every idempotency key.
    pub consumer: ConsumerName,
    /// Concurrent handler calls.
    pub workers: u32,
    /// Which events are handled.
    pub routing: Routing,
    /// Which deliveries are handled one after the other.
    pub ordering: Ordering,
    /// What an event is known by, `None` for its source and id.
    pub idempotency_key: Option<Pick>,
    /// The time for which an event that was done here is known without asking a store behind a network or a disk. At most
    /// twice of it: so half the time that the store remembers.
    pub known_for: Duration,
    /// How many attempts an event gets.
    pub retry: RetryPolicy,
    /// How often attempts may start, `None` where nothing limits it.
    pub rate: Option<Rate>,
    /// When the circuit breaker opens, `None` where there is none.
    pub circuit: Option<CircuitPolicy>,
    /// The time that one attempt may take.
    pub attempt_timeout: Duration,
    /// The time that a claim lives. The difference to the attempt timeout is left for recording.
    pub lease: Duration,
    /// The time that work in flight may take after the stop.
    pub drain_timeout: Duration,
    /// Most deliveries held.
    pub in_flight_messages: u32,
    /// Most bytes held.
    pub in_flight_bytes: u32,
    /// Largest payload that a handler gets.
    pub payload_bytes: usize,
    /// The time for which a finished effect is recorded again and again while the store does not answer.
    pub record_time: Duration,
    /// The pauses between two attempts to reach a broker or store that does not answer.
    pub reconnect: Backoff,
}
