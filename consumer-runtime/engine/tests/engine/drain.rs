//! Protects the end: what has started is finished, and the rest reaches somebody else.

use millrace_core::{outcome::Outcome, ports::Redelivery, settle::Settlement};
use millrace_engine::{Drained, Policy};
use millrace_testkit::handler::Step;
use prometheus_client::{encoding::text::encode, registry::Registry};
use std::time::Duration;

use crate::support::{Bench, clean, policy};

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_has_started_and_hands_back_the_rest_untouched() {
    let bench = Bench::jetstream();
    *bench.handler.delay.lock().unwrap() = Duration::from_secs(5);
    for id in 0..8 {
        bench.publish(&id.to_string());
    }

    let drained = bench.run_until(policy(), |bench| bench.handler.attempts() == 4).await;

    assert_eq!(drained, Drained::Clean { handed_back: 4 });
    assert_eq!(bench.handler.effects().len(), 4);
    let back = bench
        .broker
        .settlements()
        .iter()
        .filter(|(_, settlement)| *settlement == Settlement::RetryAfter(Duration::ZERO))
        .count();
    assert_eq!(back, 4);

    bench.run_until_settled().await;
    assert_eq!(bench.handler.effects().len(), 8, "nothing lost, nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_up_at_its_deadline_and_says_so() {
    let bench = Bench::jetstream();
    bench.handler.script("1", [Step::Hang]);
    bench.publish("1");
    let short = Policy { drain_timeout: Duration::from_secs(3), ..policy() };

    let drained = bench.run_until(short, |bench| bench.handler.attempts() == 1).await;

    assert_eq!(drained, Drained::Cut { unsettled: 1 });
    assert_eq!(bench.broker.settlements(), [], "what was cut is left to the broker");
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_deadline_also_when_the_broker_takes_nothing_back() {
    let bench = Bench::jetstream();
    *bench.handler.delay.lock().unwrap() = Duration::from_secs(1);
    for id in 0..8 {
        bench.publish(&id.to_string());
    }
    bench.broker.silence_faults.fail_next(1);
    let short = Policy { drain_timeout: Duration::from_secs(3), ..policy() };

    let drained = bench.run_until(short, |bench| bench.handler.attempts() == 4).await;

    assert_eq!(drained, Drained::Cut { unsettled: 4 });
    assert_eq!(bench.broker.silence_faults.failed(), 1);
}

#[tokio::test(start_paused = true)]
async fn on_a_broker_that_keeps_nothing_retries_wait_here_and_a_drain_finishes_everything() {
    let bench = Bench::new(Redelivery::Never);
    bench.handler.script("heals", [Step::End(Outcome::retryable("busy"))]);
    bench.publish("heals");
    for id in 0..10 {
        bench.publish(&id.to_string());
    }

    let drained = bench.run_until(policy(), |bench| bench.handler.attempts() > 0).await;

    assert_eq!(drained, clean());
    assert_eq!(bench.handler.effects().len(), 11);
}

#[tokio::test(start_paused = true)]
async fn what_had_no_room_on_a_broker_that_keeps_nothing_is_counted_while_it_runs_and_at_the_drain() {
    let bench = Bench::new(Redelivery::Never);
    bench.broker.room_faults.fail_next(2);
    bench.publish("one");

    // One batch is taken; the second is told of at the drain.
    assert_eq!(bench.run_until_settled().await, clean());

    let mut registry = Registry::default();
    bench.metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(text.contains("millrace_lost_total 2\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_retry_when_the_process_stops_goes_to_the_next_reader() {
    let bench = Bench::new(Redelivery::ToTheNextReader);
    bench.handler.script("heals", [Step::End(Outcome::retryable("busy"))]);
    bench.publish("heals");
    bench.publish("other");

    let drained = bench.run_until(policy(), |bench| bench.metrics.totals().retries == 1).await;

    assert_eq!(drained, Drained::Clean { handed_back: 1 });
    assert_eq!(bench.run_until_settled().await, Drained::Clean { handed_back: 1 });
    assert_eq!(bench.handler.effects(), ["other", "heals"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_fails_for_good_ends_the_engine_after_what_is_at_work() {
    let bench = Bench::new(Redelivery::ToTheNextReader);
    *bench.handler.delay.lock().unwrap() = Duration::from_secs(5);
    bench.publish("at work");
    let failing = async {
        while bench.handler.attempts() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bench.broker.fatal_faults.fail_next(1);
        bench.publish("never taken");
    };

    let (drained, ()) = tokio::join!(bench.engine(policy()).run(std::future::pending()), failing);

    assert_eq!(drained, Drained::Failed { reason: "injected".to_owned() });
    assert_eq!(bench.handler.effects(), ["at work"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_takes_back_before_it_has_started_is_left_to_the_next_reader() {
    let bench = Bench::new(Redelivery::ToTheNextReader);
    *bench.handler.delay.lock().unwrap() = Duration::from_secs(5);
    let sequences: Vec<_> = (0..8).map(|id| bench.publish(&id.to_string())).collect();

    let taking_back = |bench: &Bench| {
        if bench.handler.attempts() == 4 {
            sequences.iter().skip(4).for_each(|sequence| bench.broker.take_back(*sequence));
        }
        bench.handler.effects().len() == 4 && bench.metrics.totals().in_flight == 0
    };
    assert_eq!(bench.run_until(policy(), taking_back).await, clean());
    assert_eq!(bench.handler.attempts(), 4);

    bench.run_until_settled().await;
    assert_eq!(bench.handler.effects().len(), 8, "nothing lost, nothing twice");
}
