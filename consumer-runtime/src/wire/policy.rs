//! The engine's settings, from the configuration.

use std::time::Duration;

use millrace_config::{Ordering as ConfiguredOrdering, Pick as ConfiguredPick, RuntimeConfig};
use millrace_core::{
    backoff::Backoff, key::ConsumerName, order::Ordering, pick::Pick, rate::Rate, retry::RetryPolicy, routing::Routing,
};
use millrace_engine::{CircuitPolicy, Policy};

use crate::wire::{pauses, seconds};

pub(super) fn policy(config: &RuntimeConfig) -> Policy {
    let (delivery, limits) = (&config.delivery, &config.limits);
    Policy {
        consumer: ConsumerName { namespace: config.consumer.namespace.clone(), name: config.consumer.name.clone() },
        workers: config.workers,
        routing: Routing::new(config.event_types.iter().cloned()),
        ordering: match config.ordering {
            ConfiguredOrdering::Unordered => Ordering::Unordered,
            ConfiguredOrdering::Partition => Ordering::Lane,
            ConfiguredOrdering::Key => {
                config.ordering_key.as_ref().and_then(pick).map_or(Ordering::Unordered, Ordering::Key)
            }
        },
        idempotency_key: config.idempotency.key.as_ref().and_then(pick),
        known_for: seconds(config.idempotency.retention_seconds) / 2,
        retry: RetryPolicy {
            max_attempts: delivery.max_attempts,
            max_age: delivery.max_age_seconds.map(seconds),
            backoff: Backoff {
                initial: Duration::from_millis(delivery.backoff.initial_milliseconds.into()),
                max: seconds(delivery.backoff.max_seconds),
                jitter_percent: delivery.backoff.jitter_percent,
            },
        },
        rate: delivery.rate_limit.as_ref().map(|limit| Rate {
            per_second: limit.events_per_second,
            burst: limit.burst.unwrap_or(limit.events_per_second),
        }),
        circuit: delivery.circuit_breaker.as_ref().map(|breaker| CircuitPolicy {
            consecutive_failures: breaker.consecutive_failures,
            open: seconds(breaker.open_seconds),
        }),
        attempt_timeout: seconds(delivery.attempt_timeout_seconds),
        lease: seconds(config.claim_seconds()),
        drain_timeout: seconds(config.drain_timeout_seconds),
        in_flight_messages: limits.in_flight_messages,
        // What comes without being asked for waits in the other half.
        in_flight_bytes: limits.in_flight_bytes / if config.broker.jet_stream.is_some() { 1 } else { 2 },
        payload_bytes: usize::try_from(limits.payload_bytes).unwrap_or(usize::MAX),
        record_time: seconds(limits.record_seconds),
        reconnect: pauses(config),
    }
}

/// Where a value is found; nothing where the configuration names no place, which its rules refuse.
fn pick(configured: &ConfiguredPick) -> Option<Pick> {
    let header = configured.header.clone().map(Pick::Header);
    let field = configured.field.clone().map(Pick::Field);
    let token = configured.subject_token.and_then(|number| usize::try_from(number).ok()).map(Pick::SubjectToken);
    let key = configured.message_key.map(|_| Pick::MessageKey);
    header.or(field).or(token).or(key)
}
