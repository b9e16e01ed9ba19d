//! Protects what is delivered: effects happen once, and nothing is settled before its time.

use millrace_core::{ports::Redelivery, routing::Routing, settle::Settlement, time::Clock as _};
use millrace_engine::Policy;
use millrace_events::{Headers, Reason};
use millrace_testkit::sample;
use std::time::Duration;

use crate::support::{Bench, clean, policy};

#[tokio::test(start_paused = true)]
async fn each_event_has_its_effect_once_however_often_it_is_published() {
    let bench = Bench::jetstream();
    for round in 0..3 {
        for id in 0..50 {
            bench.publish(&format!("{}", (id + round) % 50));
        }
    }

    assert_eq!(bench.run_until_settled().await, clean());

    let mut effects = bench.handler.effects();
    effects.sort_unstable();
    effects.dedup();
    assert_eq!((bench.handler.effects().len(), effects.len()), (50, 50));
    let totals = bench.metrics.totals();
    assert_eq!((totals.handled, totals.duplicates_skipped), (50, 100));
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_the_server_forgets_causes_no_second_effect() {
    let bench = Bench::jetstream();
    let sequences: Vec<u64> = (0..20).map(|id| bench.publish(&id.to_string())).collect();
    bench.run_until_settled().await;

    for sequence in &sequences {
        // It comes again, and with a count of 1, as if it had never been delivered.
        bench.broker.forget_ack(*sequence);
    }
    bench.run_until_settled().await;

    assert_eq!(bench.handler.effects().len(), 20);
    assert_eq!(bench.metrics.totals().duplicates_skipped, 20);
}

#[tokio::test(start_paused = true)]
async fn what_was_done_here_is_known_without_the_store_and_everything_else_is_asked_for() {
    let bench = Bench::jetstream();
    let one_by_one = || Policy { workers: 1, ..policy() };
    let sequences: Vec<u64> = (0..150).map(|id| bench.publish(&(id % 50).to_string())).collect();
    bench.run_until(one_by_one(), |bench| bench.broker.is_settled()).await;
    assert_eq!((bench.store.claims(), bench.metrics.totals().duplicates_skipped), (50, 100));

    // Another process knows nothing of what the first one did.
    for sequence in &sequences {
        bench.broker.forget_ack(*sequence);
    }
    bench.run_until(one_by_one(), |bench| bench.broker.is_settled()).await;

    assert_eq!((bench.store.claims(), bench.metrics.totals().duplicates_skipped), (200, 250));
    assert_eq!(bench.handler.effects().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn an_event_with_the_id_of_one_that_was_done_here_and_other_content_is_a_conflict() {
    let bench = Bench::jetstream();
    bench.publish("1");
    let other = String::from_utf8(sample::order("1").to_vec()).unwrap().replacen("OrderPlaced", "OrderLost", 1);
    bench.broker.publish(Headers::new(), bytes::Bytes::from(other));

    bench.run_until(Policy { workers: 1, ..policy() }, |bench| bench.broker.is_settled()).await;

    assert_eq!(bench.handler.effects(), ["1"]);
    assert_eq!(bench.broker.dead_letters()[0].reason, Reason::IdempotencyConflict);
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_that_is_lost_is_asked_for_again_and_causes_no_second_effect() {
    let bench = Bench::jetstream();
    bench.broker.confirm_faults.fail_next(2);
    bench.publish("1");

    bench.run_until_settled().await;

    assert_eq!(bench.broker.confirm_faults.failed(), 2);
    assert_eq!(bench.handler.effects(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn an_original_is_not_settled_before_its_dead_letter_is_confirmed() {
    let bench = Bench::jetstream();
    bench.broker.dead_letter_faults.fail_next(7);
    bench.broker.publish(Headers::new(), "not json");

    bench.run_until_settled().await;

    assert_eq!(bench.broker.dead_letter_faults.failed(), 7);
    assert_eq!(bench.broker.dead_letters().len(), 1);
    let done = bench.broker.settlements().iter().filter(|(_, settlement)| *settlement == Settlement::Done).count();
    assert_eq!(done, 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_slower_than_the_ack_wait_is_not_delivered_twice() {
    let bench = Bench::new(Redelivery::AfterAckWait(Duration::from_secs(3)));
    *bench.handler.delay.lock().unwrap() = Duration::from_secs(15);
    let sequence = bench.publish("slow");

    bench.run_until_settled().await;

    assert_eq!(bench.broker.delivered(sequence), 1);
    assert_eq!(bench.handler.effects(), ["slow"]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_right_behind_its_first_holds_up_what_is_behind_it_hardly_longer_than_that() {
    let bench = Bench::new(Redelivery::ToTheNextReader).with_passing_claims();
    *bench.handler.delay.lock().unwrap() = Duration::from_millis(50);
    bench.publish("1");
    bench.publish("1");
    let started = bench.clock.monotonic();

    bench.run_until_settled().await;

    let took = bench.clock.monotonic().since(started);
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(bench.handler.effects(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn other_types_are_acked_and_counted_and_left_alone() {
    let bench = Bench::jetstream();
    bench.publish("1");
    let only_payments = Policy { routing: Routing::new(["PaymentProcessed".to_owned()]), ..policy() };

    bench.run_until(only_payments, |bench| bench.broker.is_settled()).await;

    assert_eq!(bench.handler.attempts(), 0);
    assert_eq!(bench.metrics.totals().ignored, 1);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_used_for_another_event_is_a_conflict() {
    let bench = Bench::jetstream();
    bench.publish("1");
    bench.run_until_settled().await;
    let other = String::from_utf8(sample::order("1").to_vec()).unwrap().replace("25.0", "99.0");
    bench.broker.publish(Headers::new(), other);

    bench.run_until_settled().await;

    assert_eq!(bench.handler.effects(), ["1"]);
    assert_eq!(bench.broker.dead_letters().first().unwrap().reason, Reason::IdempotencyConflict);
}
