//! What only Kafka has to count.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// Counters of a Kafka source.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Assignments and revocations of partitions.
    pub rebalances: Counter,
    /// Clients made anew: after a stall, or because a Secret has changed.
    pub rebuilds: Counter,
    /// Commits that the broker refused.
    pub commit_failures: Counter,
    /// Words about deliveries that another member has by now, and that change nothing.
    pub stale: Counter,
    /// Events that an earlier reader had settled above its committed position, and that were not delivered again.
    pub skipped: Counter,
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let kafka = registry.sub_registry_with_prefix("millrace_kafka");
        kafka.register("rebalances", "Assignments and revocations of partitions", self.rebalances.clone());
        kafka.register("rebuilds", "Clients made anew after a stall or a changed Secret", self.rebuilds.clone());
        kafka.register("commit_failures", "Commits that the broker refused", self.commit_failures.clone());
        kafka.register("stale", "Settlements of deliveries that another member has by now", self.stale.clone());
        kafka.register("skipped", "Events known from a commit's metadata to be settled", self.skipped.clone());
    }
}
