//! Protects the rate limit.

use millrace_core::{rate::Rate, time::Clock as _};
use millrace_engine::{Drained, Policy};
use std::time::Duration;

use crate::support::{Bench, policy};

fn limited(per_second: u32, burst: u32) -> Policy {
    Policy { rate: Some(Rate { per_second, burst }), ..policy() }
}

#[tokio::test(start_paused = true)]
async fn attempts_start_no_faster_than_the_rate_limit_and_duplicates_cost_nothing() {
    let bench = Bench::jetstream();
    for id in 0..30 {
        bench.publish(&id.to_string());
        // And once more the first.
        bench.publish("0");
    }
    let started = bench.clock.monotonic();

    bench.run_until(limited(10, 5), |bench| bench.broker.is_settled()).await;

    let took = bench.clock.monotonic().since(started);
    assert_eq!((bench.handler.effects().len(), bench.metrics.totals().duplicates_skipped), (30, 30));
    // Five at once, and 25 at ten a second.
    assert!((2400..3500).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_is_handed_back_at_once_at_a_stop() {
    let bench = Bench::jetstream();
    (0..20).for_each(|id| {
        bench.publish(&id.to_string());
    });
    let started = bench.clock.monotonic();

    let drained = bench.run_until(limited(1, 1), |bench| !bench.handler.effects().is_empty()).await;

    let took = bench.clock.monotonic().since(started);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(bench.handler.effects().len(), 1);
    assert!(matches!(drained, Drained::Clean { handed_back } if handed_back > 0), "{drained:?}");
    bench.run_until_settled().await;
    assert_eq!(bench.handler.effects().len(), 20, "nothing is lost");
}
