//! What is remembered of consumers that scale by their lag: how fast their pods are, and for how long fewer pods have been
//! enough. Lost at a restart, which only makes the operator wait a cooldown longer.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use millrace_config::status::StatusReport;

/// Entries of objects that were not looked at for this long are dropped: their objects are gone.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// What is remembered, by the uid of the object.
#[derive(Debug, Default)]
pub struct Memory {
    consumers: HashMap<String, Consumer>,
}

#[derive(Debug)]
struct Consumer {
    seen: Instant,
    /// When all pods were last needed.
    needed: Instant,
    /// Events handled by each pod so far, by its uid.
    handled: HashMap<String, u64>,
    /// Events that one pod handles in a thousand seconds.
    pace: Option<u64>,
}

impl Memory {
    /// Notes what the pods of a consumer have done since they were last asked, and says how fast one of them is and for how
    /// long fewer would have been enough. `now` is when they were asked: a second look at the same answers says nothing new.
    pub fn look(&mut self, uid: &str, pods: &[(Pod, Option<StatusReport>)], now: Instant) -> (Option<u64>, Duration) {
        if !self.consumers.contains_key(uid) {
            self.consumers.retain(|_, consumer| now.saturating_duration_since(consumer.seen) < FORGET_AFTER);
        }
        let fresh = || Consumer { seen: now, needed: now, handled: HashMap::new(), pace: None };
        let consumer = self.consumers.entry(uid.to_owned()).or_insert_with(fresh);
        if now == consumer.seen && !consumer.handled.is_empty() {
            return (consumer.pace, now.saturating_duration_since(consumer.needed));
        }
        let handled: HashMap<_, _> = pods
            .iter()
            .filter_map(|(pod, report)| Some((pod.metadata.uid.clone()?, report.as_ref()?.totals.handled)))
            .collect();
        let gains = handled.iter().filter_map(|(pod, total)| total.checked_sub(*consumer.handled.get(pod)?));
        let (gain, count) = gains.fold((0_u64, 0_u64), |(sum, count), gain| (sum.saturating_add(gain), count + 1));
        let elapsed = now.saturating_duration_since(consumer.seen).as_millis();
        let divisor = u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_mul(count);
        // Pods that had nothing to do say nothing about how fast they are.
        if gain > 0 && divisor > 0 {
            consumer.pace = Some(gain.saturating_mul(1_000_000) / divisor);
        }
        (consumer.seen, consumer.handled) = (now, handled);
        (consumer.pace, now.saturating_duration_since(consumer.needed))
    }

    /// All pods of a consumer are needed now.
    pub fn needed(&mut self, uid: &str, now: Instant) {
        if let Some(consumer) = self.consumers.get_mut(uid) {
            consumer.needed = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pace_is_that_of_one_pod_and_stays_while_there_is_nothing_to_do() {
        let start = Instant::now();
        let pods = |totals: [u64; 2]| {
            totals.map(|handled| {
                let report = json!({"version": "0", "phase": "Running", "deliveryGuarantee": "AtLeastOnce", "lag": {"inFlight": 0}, "totals": {"handled": handled}});
                (handled, serde_json::from_value(report).unwrap())
            })
        };
        let mut memory = Memory::default();
        let mut look = |totals, seconds| {
            let pods: Vec<_> = pods(totals)
                .into_iter()
                .enumerate()
                .map(|(number, (_, report))| {
                    let mut pod = Pod::default();
                    pod.metadata.uid = Some(number.to_string());
                    (pod, Some(report))
                })
                .collect();
            memory.look("uid", &pods, start + Duration::from_secs(seconds))
        };

        assert_eq!(look([0, 100], 0), (None, Duration::ZERO));
        assert_eq!(look([10, 120], 5), (Some(3000), Duration::from_secs(5)), "thirty in five seconds, by two");
        assert_eq!(look([10, 120], 10), (Some(3000), Duration::from_secs(10)));
        assert_eq!(look([20, 0], 20).0, Some(1000), "one that has started anew does not count");
        memory.needed("uid", start + Duration::from_secs(20));
        assert_eq!(memory.look("uid", &[], start + Duration::from_secs(21)).1, Duration::from_secs(1));
    }
}
