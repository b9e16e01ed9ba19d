//! The rules of `idempotency`.

use crate::{IdempotencyMode, Problem, RuntimeConfig, Store, validate::ordering::check_pick};

pub(super) fn check(config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    if let Some(pick) = &config.idempotency.key {
        check_pick("idempotency.key", pick, problems);
        if config.idempotency.mode == IdempotencyMode::None {
            problems.push(Problem::new("idempotency.key", "has no use with mode None; remove it or use mode Claim"));
        }
    }
    let Some(store) = &config.idempotency.store else { return };
    if config.idempotency.mode == IdempotencyMode::None {
        problems.push(Problem::new("idempotency.store", "has no use with mode None; remove it or use mode Claim"));
    }
    match store {
        Store { jet_stream_kv: Some(_), memory: None } if config.broker.jet_stream.is_none() => {
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
