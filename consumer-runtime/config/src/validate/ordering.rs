//! The rules of `ordering`.

use crate::{IdempotencyMode, Ordering, Pick, Problem, RuntimeConfig, Store, validate::check_range};

pub(super) fn check(config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    match (config.ordering, &config.ordering_key) {
        (Ordering::Key, Some(pick)) => check_pick(config, "orderingKey", pick, problems),
        (Ordering::Unordered | Ordering::Partition, None) => {}
        (Ordering::Key, None) => {
            problems.push(Problem::new("orderingKey", "say what keeps events in order, for example {field: order_id}"));
        }
        (Ordering::Unordered | Ordering::Partition, Some(_)) => {
            problems
                .push(Problem::new("orderingKey", "has no use without ordering Key; remove it or set ordering: Key"));
        }
    }
    if config.ordering == Ordering::Partition && config.broker.kafka.is_none() {
        problems.push(Problem::new("ordering", "Partition needs broker.kafka; use Key"));
    }
    let shared_claims = config.idempotency.mode != IdempotencyMode::None
        && !matches!(config.store(), Some(Store { memory: Some(_), .. }));
    if config.ordering == Ordering::Key && config.broker.jet_stream.is_some() && !shared_claims {
        problems.push(Problem::new(
            "ordering",
            "Key with broker.jetStream needs claims in a store that outlives a pod: they keep two replicas from overtaking each other",
        ));
    }
}

/// The rules of a pick, whatever it is for.
pub(super) fn check_pick(config: &RuntimeConfig, field: &str, pick: &Pick, problems: &mut Vec<Problem>) {
    if pick.members() != 1 {
        problems.push(Problem::new(field, "set exactly one of header, field, subjectToken and messageKey"));
    }
    if pick.message_key.is_some() && config.broker.kafka.is_none() {
        problems.push(Problem::new(format!("{field}.messageKey"), "needs broker.kafka: NATS messages have no key"));
    }
    for (member, name) in [("header", &pick.header), ("field", &pick.field)] {
        if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 128) {
            problems.push(Problem::new(format!("{field}.{member}"), "use 1 to 128 bytes"));
        }
    }
    check_range(&format!("{field}.subjectToken"), pick.subject_token.unwrap_or(1), 1, 64, problems);
}
