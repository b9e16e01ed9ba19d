//! How many pods a consumer with `scaling.mode: Lag` is to have. Pure.
//!
//! More come at once; fewer only after the cooldown, because a pod that goes must drain and one that comes must start. What
//! is at work counts like what waits: nothing is scaled away under it.

use std::time::Duration;

use millrace_operator_api::{OnUnknownLag, Scaling};

use crate::{lag::Figures, wake::Hindrance};

/// What is seen of a consumer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observed {
    /// Pods that it has now.
    pub current: i32,
    /// What the pods report; nothing while none of them does.
    pub figures: Option<Figures>,
    /// Events handled in a thousand seconds by one pod; nothing while that is not known.
    pub pace: Option<u64>,
    /// How long fewer pods have been enough.
    pub enough_for: Duration,
}

/// What is decided, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Pods that it is to have.
    pub replicas: i32,
    /// Why.
    pub reason: Reason,
    /// Whether no fewer than the present number are needed.
    pub needs_all: bool,
}

/// Why there are as many pods as there are: the reason of the condition `ScalingActive`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// By the lag.
    Measured,
    /// More would be used than there may be.
    AtMaximum,
    /// By `onUnknownLag`.
    LagUnknown,
}

/// What the status says of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Told {
    /// Why there are as many pods as there are.
    pub reason: Reason,
    /// What waits at the broker, where the consumer may have no pods.
    pub asked: Option<Result<u64, Hindrance>>,
}

/// How many pods there are to be.
pub fn decide(scaling: &Scaling, observed: &Observed) -> Decision {
    let (least, most) = (scaling.min_replicas, scaling.max_replicas.max(scaling.min_replicas));
    let current = observed.current.clamp(least, most);
    let figures = observed.figures.unwrap_or_default();
    let Some(pending) = figures.pending else {
        let replicas = match scaling.on_unknown_lag {
            OnUnknownLag::Hold => current,
            OnUnknownLag::MinReplicas => least,
            OnUnknownLag::MaxReplicas => most,
        };
        return Decision { replicas, reason: Reason::LagUnknown, needs_all: true };
    };
    let wanted = wanted(scaling, pending.saturating_add(figures.in_flight), observed.pace);
    let allowed = evenly(wanted.clamp(least, most), figures.partitions);
    let reason = if wanted > allowed { Reason::AtMaximum } else { Reason::Measured };
    let cooled = observed.enough_for >= Duration::from_secs(scaling.cooldown_seconds.into());
    let replicas = if allowed >= current || cooled { allowed } else { current };
    Decision { replicas, reason, needs_all: allowed >= current }
}

/// Pods for `work`, whatever there may be.
fn wanted(scaling: &Scaling, work: u64, pace: Option<u64>) -> i32 {
    let share = u64::try_from(scaling.target_pending_per_replica).unwrap_or(1).max(1);
    let by_time = scaling.target_drain_seconds.zip(pace.filter(|pace| *pace > 0)).map(|(seconds, pace)| {
        let one = pace.saturating_mul(seconds.into());
        work.saturating_mul(1000).div_ceil(one.max(1))
    });
    let pods = work.div_ceil(share).max(by_time.unwrap_or_default());
    i32::try_from(pods).unwrap_or(i32::MAX)
}

/// No more than the partitions, and no more than share them evenly: where each has two anyway, one with one is of no use.
fn evenly(replicas: i32, partitions: Option<u32>) -> i32 {
    let Some(partitions) = partitions.and_then(|partitions| i32::try_from(partitions).ok()).filter(|all| *all > 0)
    else {
        return replicas;
    };
    let replicas = replicas.clamp(1, partitions);
    let each = (partitions - 1) / replicas + 1;
    (partitions - 1) / each + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scaling() -> Scaling {
        Scaling { target_pending_per_replica: 100, target_drain_seconds: Some(10), ..Scaling::default() }
    }

    fn observed(current: i32, pending: Option<u64>, in_flight: u64) -> Observed {
        let figures = Some(Figures { pending, in_flight, ..Figures::default() });
        Observed { current, figures, pace: None, enough_for: Duration::ZERO }
    }

    #[test]
    fn more_come_at_once_and_fewer_after_the_cooldown() {
        let decision = decide(&scaling(), &observed(1, Some(350), 1));
        assert_eq!((decision.replicas, decision.reason), (4, Reason::Measured));
        let busy = observed(4, Some(0), 150);
        assert_eq!((decide(&scaling(), &busy).replicas, decide(&scaling(), &busy).needs_all), (4, false));
        let cooled = Observed { enough_for: Duration::from_secs(120), ..busy };
        assert_eq!(decide(&scaling(), &cooled).replicas, 2, "what is at work counts");
        assert_eq!(decide(&scaling(), &observed(1, Some(5000), 0)).reason, Reason::AtMaximum);
    }

    #[test]
    fn the_larger_of_the_two_targets_counts() {
        // Two events a second from each pod: 200 events take one pod 100 s, and ten pods the 10 s that are asked for.
        let slow = Observed { pace: Some(2000), ..observed(1, Some(200), 0) };
        assert_eq!(decide(&scaling(), &slow).replicas, 10);
        let fast = Observed { pace: Some(1_000_000), ..slow };
        assert_eq!(decide(&scaling(), &fast).replicas, 2);
    }

    #[test]
    fn a_lag_that_is_not_known_is_neither_none_nor_much() {
        for (policy, replicas) in
            [(OnUnknownLag::Hold, 3), (OnUnknownLag::MinReplicas, 1), (OnUnknownLag::MaxReplicas, 10)]
        {
            let scaling = Scaling { on_unknown_lag: policy, ..scaling() };
            let decision = decide(&scaling, &observed(3, None, 0));
            assert_eq!((decision.replicas, decision.reason), (replicas, Reason::LagUnknown));
        }
        assert_eq!(decide(&scaling(), &Observed { current: 3, ..Observed::default() }).replicas, 3, "nobody reports");
    }

    #[test]
    fn partitions_are_shared_evenly() {
        for (replicas, partitions, even) in [(7, 10, 5), (10, 10, 10), (12, 4, 4), (3, 4, 2), (5, 0, 5), (9, 1, 1)] {
            assert_eq!(evenly(replicas, Some(partitions)), even, "{replicas} of {partitions}");
        }
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_and_never_shrinks_before_the_cooldown(
            least in 0_i32..20, more in 0_i32..20, current in 0_i32..60, pending in prop::option::of(0_u64..u64::MAX),
            in_flight in 0_u64..u64::MAX, pace in prop::option::of(0_u64..u64::MAX), partitions in prop::option::of(0_u32..100),
            enough in 0_u64..240, target in 1_i64..i64::MAX,
        ) {
            let most = (least + more).max(1);
            let scaling = Scaling { min_replicas: least, max_replicas: most, target_pending_per_replica: target, ..scaling() };
            let figures = Some(Figures { pending, in_flight, partitions, ..Figures::default() });
            let observed = Observed { current, figures, pace, enough_for: Duration::from_secs(enough) };

            let decision = decide(&scaling, &observed);

            prop_assert!(decision.replicas >= least.min(1) && decision.replicas <= most);
            let nothing_waits = pending == Some(0) && in_flight == 0;
            let stays = current == 0 && pending.is_none();
            prop_assert!(decision.replicas > 0 || nothing_waits || stays);
            let capped = partitions.is_some_and(|all| all > 0 && i64::from(all) < i64::from(least));
            prop_assert!(capped || least == 0 || decision.replicas >= evenly(least, partitions));
            if enough < 120 && scaling.on_unknown_lag == OnUnknownLag::Hold {
                prop_assert!(decision.replicas >= current.min(most));
            }
        }

        #[test]
        fn more_work_never_means_fewer_pods(work in 0_u64..1_000_000, more in 0_u64..1_000_000, pace in 1_u64..1_000_000) {
            prop_assert!(wanted(&scaling(), work, Some(pace)) <= wanted(&scaling(), work.saturating_add(more), Some(pace)));
        }
    }
}
