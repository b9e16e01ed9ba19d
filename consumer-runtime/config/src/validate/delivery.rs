//! The rules of `delivery`.

use crate::{
    CircuitBreaker, OnExhausted, Problem, RateLimit, RuntimeConfig, Store,
    validate::{
        check_range,
        subject::{is_subject_filter, is_topic, subject_matches},
    },
};

pub(super) fn check(config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    let delivery = &config.delivery;
    check_range("delivery.attemptTimeoutSeconds", delivery.attempt_timeout_seconds, 1, 3600, problems);
    check_range("delivery.maxAttempts", delivery.max_attempts, 1, 100, problems);
    if let Some(RateLimit { events_per_second, burst }) = &delivery.rate_limit {
        check_range("delivery.rateLimit.eventsPerSecond", *events_per_second, 1, 1_000_000, problems);
        check_range("delivery.rateLimit.burst", burst.unwrap_or(1), 1, 1_000_000, problems);
    }
    if let Some(CircuitBreaker { consecutive_failures, open_seconds }) = &delivery.circuit_breaker {
        check_range("delivery.circuitBreaker.consecutiveFailures", *consecutive_failures, 2, 1000, problems);
        check_range("delivery.circuitBreaker.openSeconds", *open_seconds, 1, 3600, problems);
    }
    if delivery.attempt_timeout_seconds > config.drain_timeout_seconds {
        problems.push(Problem::new(
            "delivery.attemptTimeoutSeconds",
            format!(
                "{} is more than drainTimeoutSeconds ({}): an attempt must be able to end within a drain",
                delivery.attempt_timeout_seconds, config.drain_timeout_seconds
            ),
        ));
    }
    if let Some(max_age) = delivery.max_age_seconds {
        check_range("delivery.maxAgeSeconds", max_age, 1, 31_536_000, problems);
        if config.broker.nats.is_some() {
            problems.push(Problem::new(
                "delivery.maxAgeSeconds",
                "needs broker.jetStream or broker.kafka: NATS core does not say when an event was published",
            ));
        }
    }
    check_on_exhausted(config, problems);
    check_dead_letter(config, problems);
}

fn check_on_exhausted(config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    let delivery = &config.delivery;
    match (delivery.on_exhausted, &delivery.dead_letter) {
        (OnExhausted::DeadLetter, Some(_)) | (OnExhausted::Pause | OnExhausted::Drop, None) => {}
        (OnExhausted::DeadLetter, None) => problems
            .push(Problem::new("delivery.deadLetter", "say where dead letters go, for example {subject: dlq.orders}")),
        (OnExhausted::Pause | OnExhausted::Drop, Some(_)) => {
            problems.push(Problem::new("delivery.deadLetter", "has no use with onExhausted Pause or Drop; remove it"));
        }
    }
    // A Kafka event that is not settled stays where it is for the next reader. JetStream would deliver it again, and only
    // the claim knows how often it was tried.
    let keeps_attempts =
        matches!(config.store(), Some(Store { memory: None, .. })) && config.broker.jet_stream.is_some();
    if delivery.on_exhausted == OnExhausted::Pause && !keeps_attempts && config.broker.kafka.is_none() {
        problems.push(Problem::new(
            "delivery.onExhausted",
            "Pause needs broker.kafka, or broker.jetStream with claims that outlive a pod, which keep the event and its attempts",
        ));
    }
}

fn check_dead_letter(config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    let Some(dead_letter) = &config.delivery.dead_letter else { return };
    if config.broker.kafka.is_some() {
        if !is_topic(&dead_letter.subject) {
            problems.push(Problem::new(
                "delivery.deadLetter.subject",
                "is a topic with broker.kafka: use letters, digits, '.', '_' and '-'",
            ));
        }
    } else if !is_subject_filter(&dead_letter.subject) || dead_letter.subject.contains(['*', '>']) {
        problems.push(Problem::new(
            "delivery.deadLetter.subject",
            "use a subject without wildcards, for example dlq.orders",
        ));
    }
    for subject in &config.subjects {
        if subject_matches(subject, &dead_letter.subject) {
            problems.push(Problem::new(
                "delivery.deadLetter.subject",
                format!(
                    "{:?} matches subjects ({subject:?}): dead letters would be consumed again",
                    dead_letter.subject
                ),
            ));
        }
    }
}
