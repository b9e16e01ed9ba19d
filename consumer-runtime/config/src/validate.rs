//! The rules of a configuration. Pure: the operator applies them to what it renders, the runtime to what it reads.

use crate::{
    Broker, CircuitBreaker, Email, Handler, IdempotencyMode, OnExhausted, Problem, RateLimit, RuntimeConfig, Store,
};

impl RuntimeConfig {
    /// Every rule that this configuration breaks.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        check_broker(&self.broker, &mut problems);
        self.check_subjects(&mut problems);
        check_range("workers", self.workers, 1, 4096, &mut problems);
        self.check_queue_group(&mut problems);
        self.check_idempotency(&mut problems);
        check_handler(&self.handler, &mut problems);
        self.check_delivery(&mut problems);
        problems
    }

    fn check_subjects(&self, problems: &mut Vec<Problem>) {
        if self.subjects.is_empty() {
            problems.push(Problem::new("subjects", "name at least one subject"));
        }
        for (index, subject) in self.subjects.iter().enumerate() {
            if !is_subject_filter(subject) {
                problems.push(Problem::new(
                    format!("subjects[{index}]"),
                    format!(
                        "{subject:?} is not a subject: use tokens joined by '.', '*' for one token, '>' only at the end"
                    ),
                ));
            }
        }
    }

    fn check_queue_group(&self, problems: &mut Vec<Problem>) {
        let queue_group = self.queue_group();
        if queue_group.is_empty() || queue_group.len() > 128 || !queue_group.bytes().all(is_name_byte) {
            problems.push(Problem::new(
                "queueGroup",
                format!("{queue_group:?} is not a queue group: use 1 to 128 letters, digits, '-' and '_'"),
            ));
        }
    }

    fn check_idempotency(&self, problems: &mut Vec<Problem>) {
        let Some(store) = &self.idempotency.store else { return };
        if self.idempotency.mode == IdempotencyMode::None {
            problems.push(Problem::new("idempotency.store", "has no use with mode None; remove it or use mode Claim"));
        }
        match store {
            Store { jet_stream_kv: Some(_), memory: None } if self.broker.jet_stream.is_none() => {
                problems.push(Problem::new(
                    "idempotency.store.jetStreamKV",
                    "needs broker.jetStream; use memory with broker.nats",
                ));
            }
            Store { jet_stream_kv: Some(_), memory: None } | Store { jet_stream_kv: None, memory: Some(_) } => {}
            Store { .. } => {
                problems.push(Problem::new("idempotency.store", "set exactly one of jetStreamKV and memory"));
            }
        }
    }

    fn check_delivery(&self, problems: &mut Vec<Problem>) {
        let delivery = &self.delivery;
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
        if delivery.attempt_timeout_seconds > self.drain_timeout_seconds {
            problems.push(Problem::new(
                "delivery.attemptTimeoutSeconds",
                format!(
                    "{} is more than drainTimeoutSeconds ({}): an attempt must be able to end within a drain",
                    delivery.attempt_timeout_seconds, self.drain_timeout_seconds
                ),
            ));
        }
        if let Some(max_age) = delivery.max_age_seconds {
            check_range("delivery.maxAgeSeconds", max_age, 1, 31_536_000, problems);
            if self.broker.jet_stream.is_none() {
                problems.push(Problem::new(
                    "delivery.maxAgeSeconds",
                    "needs broker.jetStream: NATS core does not say when an event was published",
                ));
            }
        }
        self.check_on_exhausted(problems);
        self.check_dead_letter(problems);
    }

    fn check_on_exhausted(&self, problems: &mut Vec<Problem>) {
        let delivery = &self.delivery;
        match (delivery.on_exhausted, &delivery.dead_letter) {
            (OnExhausted::DeadLetter, Some(_)) | (OnExhausted::Pause | OnExhausted::Drop, None) => {}
            (OnExhausted::DeadLetter, None) => problems.push(Problem::new(
                "delivery.deadLetter",
                "say where dead letters go, for example {subject: dlq.orders}",
            )),
            (OnExhausted::Pause | OnExhausted::Drop, Some(_)) => {
                problems
                    .push(Problem::new("delivery.deadLetter", "has no use with onExhausted Pause or Drop; remove it"));
            }
        }
        let keeps_attempts = matches!(self.store(), Some(Store { jet_stream_kv: Some(_), .. }));
        if delivery.on_exhausted == OnExhausted::Pause && !keeps_attempts {
            problems.push(Problem::new(
                "delivery.onExhausted",
                "Pause needs broker.jetStream and claims in jetStreamKV, which keep the event and its attempts",
            ));
        }
    }

    fn check_dead_letter(&self, problems: &mut Vec<Problem>) {
        let Some(dead_letter) = &self.delivery.dead_letter else { return };
        if !is_subject_filter(&dead_letter.subject) || dead_letter.subject.contains(['*', '>']) {
            problems.push(Problem::new(
                "delivery.deadLetter.subject",
                "use a subject without wildcards, for example dlq.orders",
            ));
        }
        for subject in &self.subjects {
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
}

fn check_broker(broker: &Broker, problems: &mut Vec<Problem>) {
    match broker {
        Broker { jet_stream: Some(_), nats: None } | Broker { jet_stream: None, nats: Some(_) } => {}
        Broker { .. } => problems.push(Problem::new("broker", "set exactly one of jetStream and nats")),
    }
    if let Some(jet_stream) = &broker.jet_stream {
        check_servers("broker.jetStream.servers", &jet_stream.servers, problems);
        check_range("broker.jetStream.ackWaitSeconds", jet_stream.ack_wait_seconds, 2, 3600, problems);
    }
    if let Some(nats) = &broker.nats {
        check_servers("broker.nats.servers", &nats.servers, problems);
    }
}

fn check_servers(field: &str, servers: &[String], problems: &mut Vec<Problem>) {
    if servers.is_empty() {
        problems.push(Problem::new(field, "name at least one server, for example nats://nats.nats.svc:4222"));
    }
    for (index, server) in servers.iter().enumerate() {
        let host = server.strip_prefix("nats://").unwrap_or_default();
        if host.is_empty() || host.contains(['@', '/', ' ']) {
            problems.push(Problem::new(
                format!("{field}[{index}]"),
                format!("{server:?} is not a server URL: use nats://host:port, and authSecretRef for credentials"),
            ));
        }
    }
}

fn check_handler(handler: &Handler, problems: &mut Vec<Problem>) {
    let members = [handler.log.is_some(), handler.email.is_some(), handler.analytics.is_some()];
    if members.into_iter().filter(|set| *set).count() != 1 {
        problems.push(Problem::new("handler", "set exactly one of log, email and analytics"));
    }
    if let Some(Email { from, .. }) = &handler.email
        && (!from.contains('@') || from.contains(['\r', '\n']))
    {
        problems.push(Problem::new("handler.email.from", format!("{from:?} is not an e-mail address")));
    }
}

fn check_range(field: &str, value: u32, min: u32, max: u32, problems: &mut Vec<Problem>) {
    if !(min..=max).contains(&value) {
        problems.push(Problem::new(field, format!("{value} is out of range: use {min} to {max}")));
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Whether `subject` is a NATS subject, wildcards allowed.
fn is_subject_filter(subject: &str) -> bool {
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        let valid = match token {
            "" => false,
            ">" => tokens.peek().is_none(),
            "*" => true,
            _ => {
                !token.contains(['*', '>'])
                    && !token.chars().any(|character| character.is_whitespace() || character.is_control())
            }
        };
        if !valid {
            return false;
        }
    }
    subject.len() <= 255
}

/// Whether the NATS subject filter `filter` matches `subject`.
fn subject_matches(filter: &str, subject: &str) -> bool {
    let mut subject_tokens = subject.split('.');
    for token in filter.split('.') {
        match (token, subject_tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    subject_tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_filters_match_as_the_nats_server_matches_them() {
        for (filter, subject, expected) in [
            ("orders.placed", "orders.placed", true),
            ("orders.*", "orders.placed", true),
            ("orders.*", "orders.placed.eu", false),
            ("orders.>", "orders.placed.eu", true),
            ("orders.>", "orders", false),
            (">", "dlq.orders", true),
            ("orders", "orders.placed", false),
        ] {
            assert_eq!(subject_matches(filter, subject), expected, "{filter} {subject}");
        }
    }

    #[test]
    fn malformed_subjects_are_refused() {
        for subject in ["", ".", "a..b", "a.>.b", "a b", "a.b*", "a\n"] {
            assert!(!is_subject_filter(subject), "{subject:?}");
        }
    }
}
