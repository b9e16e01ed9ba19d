//! The rules of `idempotency`.

use crate::{IdempotencyMode, Problem, RuntimeConfig, VolumeClaim, validate::ordering::check_pick};

/// What a volume must have at least, in MiB: room for the file of an idle consumer, and to go on when it is nearly full.
const VOLUME_MEBIBYTES_MIN: u64 = 64;

pub(super) fn check(config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    if let Some(pick) = &config.idempotency.key {
        check_pick(config, "idempotency.key", pick, problems);
        if config.idempotency.mode == IdempotencyMode::None {
            problems.push(Problem::new("idempotency.key", "has no use with mode None; remove it or use mode Claim"));
        }
    }
    check_transactional(config, problems);
    let Some(store) = &config.idempotency.store else {
        if config.broker.kafka.is_some() && config.idempotency.mode != IdempotencyMode::None {
            problems.push(Problem::new(
                "idempotency.store",
                "must be named with broker.kafka, for example {memory: {}} for trying out; or use mode None",
            ));
        }
        return;
    };
    if config.idempotency.mode == IdempotencyMode::None {
        problems.push(Problem::new("idempotency.store", "has no use with mode None; remove it or use mode Claim"));
    }
    if store.members() != 1 {
        problems.push(Problem::new(
            "idempotency.store",
            "set exactly one of embedded, jetStreamKV, memory, postgres and redis",
        ));
    }
    if store.jet_stream_kv.is_some() && config.broker.jet_stream.is_none() {
        problems.push(Problem::new("idempotency.store.jetStreamKV", "needs broker.jetStream; use another store"));
    }
    if let Some(embedded) = &store.embedded {
        if config.broker.nats.is_some() {
            problems.push(Problem::new(
                "idempotency.store.embedded",
                "needs broker.jetStream or broker.kafka; use memory with broker.nats",
            ));
        }
        check_size(&embedded.volume_claim, problems);
    }
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

fn check_size(claim: &VolumeClaim, problems: &mut Vec<Problem>) {
    if claim.mebibytes().is_none_or(|size| size < VOLUME_MEBIBYTES_MIN) {
        problems.push(Problem::new(
            "idempotency.store.embedded.volumeClaim.size",
            format!(
                "{:?} is not the size of a volume: use a whole number of Mi, Gi or Ti, at least {VOLUME_MEBIBYTES_MIN}Mi",
                claim.size
            ),
        ));
    }
}

#[cfg(test)]
mod tests {
    use crate::{LoadError, load};

    /// The fields that a configuration with this broker and this store has problems with.
    fn problems(broker: &str, store: &str) -> Vec<String> {
        let loaded = load(&format!(
            "
consumer: {{namespace: shop, name: order-emails}}
broker: {{{broker}: {{servers: ['nats://127.0.0.1:4222']}}}}
subjects: [orders.placed]
handler: {{log: {{}}}}
idempotency: {{store: {store}}}
delivery: {{deadLetter: {{subject: dlq.order-emails}}}}
"
        ));
        match loaded {
            Ok(_) => Vec::new(),
            Err(LoadError::Problems(problems)) => problems.into_iter().map(|problem| problem.field).collect(),
            Err(error @ LoadError::Syntax(_)) => panic!("{error}"),
        }
    }

    #[test]
    fn exactly_one_store_that_fits_the_broker_is_accepted() {
        for store in ["{embedded: {volumeClaim: {size: 64Mi}}}", "{redis: {connectionSecretRef: {name: redis}}}"] {
            assert_eq!(problems("jetStream", store), [""; 0]);
        }
        assert_eq!(problems("jetStream", "{}"), ["idempotency.store"]);
        assert_eq!(problems("jetStream", "{memory: {}, jetStreamKV: {}}"), ["idempotency.store"]);
        assert_eq!(problems("nats", "{embedded: {volumeClaim: {size: 1Ti}}}"), ["idempotency.store.embedded"]);
        for size in ["63Mi", "0Gi", "-1Gi", "1G", "1.5Gi", "Gi", "99999999999999999999Ti"] {
            let store = format!("{{embedded: {{volumeClaim: {{size: '{size}'}}}}}}");
            assert_eq!(problems("jetStream", &store), ["idempotency.store.embedded.volumeClaim.size"]);
        }
    }
}
