//! The rules of `idempotency`.

use crate::{IdempotencyMode, Problem, RuntimeConfig, Store, validate::ordering::check_pick};

pub(super) fn check(config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    if let Some(pick) = &config.idempotency.key {
        check_pick("idempotency.key", pick, problems);
        if config.idempotency.mode == IdempotencyMode::None {
            problems.push(Problem::new("idempotency.key", "has no use with mode None; remove it or use mode Claim"));
        }
    }
    check_transactional(config, problems);
    let Some(store) = &config.idempotency.store else { return };
    if config.idempotency.mode == IdempotencyMode::None {
        problems.push(Problem::new("idempotency.store", "has no use with mode None; remove it or use mode Claim"));
    }
    if members(store) != 1 {
        problems.push(Problem::new("idempotency.store", "set exactly one of jetStreamKV, postgres and memory"));
    }
    if store.jet_stream_kv.is_some() && config.broker.jet_stream.is_none() {
        problems
            .push(Problem::new("idempotency.store.jetStreamKV", "needs broker.jetStream; use memory with broker.nats"));
    }
}

fn members(store: &Store) -> usize {
    let members = [store.jet_stream_kv.is_some(), store.postgres.is_some(), store.memory.is_some()];
    members.into_iter().filter(|is_set| *is_set).count()
}

/// Effect and record can only be one transaction where handler and store share a database. A handler that works in a
/// database works in that of the store, so naming one store is all that can be got wrong.
fn check_transactional(config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    let is_transactional = config.idempotency.mode == IdempotencyMode::Transactional;
    let has_database = config.idempotency.store.as_ref().is_some_and(|store| store.postgres.is_some());
    if is_transactional && !(has_database && config.handler.is_transactional()) {
        problems.push(Problem::new(
            "idempotency.mode",
            "Transactional needs idempotency.store.postgres and a handler that commits to it: inventory, or analytics \
             with store Postgres",
        ));
    }
    if config.handler.is_transactional() && !is_transactional {
        problems.push(Problem::new(
            "handler",
            "inventory, and analytics with store Postgres, need idempotency.mode Transactional",
        ));
    }
}
