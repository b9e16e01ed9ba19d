//! Protects the circuit breaker.

use millrace_core::{health::Part, outcome::Outcome, time::Clock as _, time::Monotonic};
use millrace_engine::{CircuitPolicy, Policy};
use millrace_testkit::handler::Step;
use std::time::Duration;

use crate::support::{Bench, clean, policy};

fn breaking() -> Policy {
    Policy { circuit: Some(CircuitPolicy { consecutive_failures: 5, open: Duration::from_secs(30) }), ..policy() }
}

#[tokio::test(start_paused = true)]
async fn while_every_attempt_fails_the_circuit_is_open_and_no_attempt_is_spent() {
    let bench = Bench::jetstream();
    for id in 0..200 {
        bench.publish(&id.to_string());
    }
    let heals_at = Monotonic(Duration::from_secs(1800));

    let drained = bench.run_until(breaking(), |bench| {
        let now = bench.clock.monotonic();
        bench.handler.set_failing(now < heals_at);
        if now > Monotonic(Duration::from_secs(1)) && now < heals_at {
            let troubles = bench.health.troubles();
            assert_eq!(troubles.first().map(|(part, _)| *part), Some(Part::Circuit), "it is told");
        }
        bench.broker.is_settled()
    });

    assert_eq!(drained.await, clean());
    assert_eq!((bench.handler.effects().len(), bench.broker.dead_letters().len()), (200, 0));
    assert!(bench.health.is_ready());
    // Those that opened it, those at work by then, and a probe each 30 s.
    let failed = bench.handler.attempts() - 200;
    assert!((60..=70).contains(&failed), "{failed} attempts failed");
    assert!(bench.metrics.totals().deliveries < 1000, "nothing is fetched in vain");
}

#[tokio::test(start_paused = true)]
async fn duplicates_do_not_keep_an_open_circuit_from_its_probe() {
    let bench = Bench::jetstream();
    let publish = |ids: std::ops::Range<u32>| {
        ids.for_each(|id| {
            bench.publish(&id.to_string());
        });
    };
    publish(0..50);
    bench.run_until_settled().await;
    publish(50..55);
    publish(0..50);
    bench.handler.set_failing(true);
    let started = bench.clock.monotonic();

    let drained = bench.run_until(breaking(), |bench| {
        bench.handler.set_failing(bench.clock.monotonic().since(started) < Duration::from_secs(40));
        bench.broker.is_settled()
    });

    assert_eq!(drained.await, clean());
    assert_eq!(bench.handler.effects().len(), 55);
    let took = bench.clock.monotonic().since(started);
    assert!(took < Duration::from_secs(75), "the second probe, after a minute, closes it: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn with_a_circuit_breaker_an_event_that_fails_alone_is_given_up_after_its_attempts() {
    let bench = Bench::jetstream();
    let fail = || Step::End(Outcome::retryable("connection refused"));
    bench.handler.script("poison", [fail(), fail(), fail(), fail()]);
    bench.publish("poison");

    bench.run_until(breaking(), |bench| bench.broker.is_settled()).await;

    assert_eq!(bench.handler.attempts(), 3);
    assert_eq!(bench.broker.dead_letters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_probed_at_once_when_the_handler_can_work_again() {
    let bench = Bench::jetstream();
    for id in 0..50 {
        bench.publish(&id.to_string());
    }
    let down = Duration::from_secs(10);

    let drained = bench.run_until(breaking(), |bench| {
        bench.handler.set_outage(bench.clock.monotonic().0 < down);
        bench.broker.is_settled()
    });

    assert_eq!(drained.await, clean());
    let took = bench.clock.monotonic().0;
    assert!(took < Duration::from_secs(20), "it does not wait for the end of its 30 s: {took:?}");
    assert_eq!(bench.handler.effects().len(), 50);
}
