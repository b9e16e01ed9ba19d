//! Protects the order of events with the same key.

use std::time::Duration;

use millrace_core::{order::Ordering, outcome::Outcome, pick::Pick, ports::Redelivery};
use millrace_engine::{Drained, Policy};
use millrace_events::Headers;
use millrace_testkit::{handler::Step, sample};

use crate::support::{Bench, clean, policy};

fn ordered() -> Policy {
    Policy { ordering: Ordering::Key(Pick::Header("customer".to_owned())), ..policy() }
}

/// Publishes an event of a customer; without one when the name is empty.
fn publish(bench: &Bench, customer: &str, id: &str) {
    let mut headers = Headers::new();
    headers.push("customer", customer.to_owned());
    bench.broker.publish(headers, sample::order(id));
}

/// The numbers of a customer's effects, in order.
fn effects(bench: &Bench, customer: &str) -> Vec<u32> {
    let effects = bench.handler.effects();
    effects.iter().filter_map(|id| id.strip_prefix(customer)?.strip_prefix('-')?.parse().ok()).collect()
}

#[tokio::test(start_paused = true)]
async fn only_the_key_that_fails_waits_and_its_successors_wait_in_order() {
    for redelivery in
        [Redelivery::AfterAckWait(Duration::from_secs(30)), Redelivery::ToTheNextReader, Redelivery::Never]
    {
        let bench = Bench::new(redelivery);
        bench.handler.script("a-0", [Step::End(Outcome::retryable("busy")), Step::Panic]);
        for number in 0..5 {
            for customer in ["a", "b", "c"] {
                publish(&bench, customer, &format!("{customer}-{number}"));
            }
        }

        assert_eq!(bench.run_until(ordered(), |bench| bench.handler.effects().len() == 15).await, clean());

        let all = bench.handler.effects();
        let healed = all.iter().position(|id| id == "a-0").unwrap();
        assert_eq!(healed, 10, "the others did not wait: {all:?}");
        for customer in ["a", "b", "c"] {
            assert_eq!(effects(&bench, customer), [0, 1, 2, 3, 4], "{redelivery:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_head_is_given_up_goes_on_and_events_without_a_key_keep_one_order() {
    let bench = Bench::jetstream();
    bench.handler.script("a-0", (0..3).map(|_| Step::End(Outcome::retryable("busy"))));
    for number in 0..3 {
        publish(&bench, "a", &format!("a-{number}"));
        publish(&bench, "", &format!("none-{number}"));
    }

    bench.run_until(ordered(), |bench| bench.broker.is_settled()).await;

    assert_eq!(effects(&bench, "a"), [1, 2]);
    assert_eq!(effects(&bench, "none"), [0, 1, 2]);
    assert_eq!(bench.broker.dead_letters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_order_at_a_stop_is_handed_back_and_keeps_its_order() {
    let bench = Bench::jetstream();
    *bench.handler.delay.lock().unwrap() = Duration::from_secs(2);
    for number in 0..8 {
        publish(&bench, "a", &format!("a-{number}"));
    }

    let drained = bench.run_until(ordered(), |bench| bench.handler.attempts() == 3).await;

    assert!(matches!(drained, Drained::Clean { handed_back } if handed_back >= 4), "{drained:?}");
    assert_eq!(effects(&bench, "a"), [0, 1, 2]);
    bench.run_until(ordered(), |bench| bench.broker.is_settled()).await;
    assert_eq!(effects(&bench, "a"), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_handled_one_by_one_whatever_its_keys() {
    let bench = Bench::new(Redelivery::ToTheNextReader);
    bench.handler.script("a-0", [Step::End(Outcome::retryable("busy"))]);
    for (customer, id) in [("a", "a-0"), ("b", "b-0"), ("a", "a-1")] {
        publish(&bench, customer, id);
    }

    let lane = Policy { ordering: Ordering::Lane, ..policy() };
    bench.run_until(lane, |bench| bench.broker.is_settled()).await;

    assert_eq!(bench.handler.effects(), ["a-0", "b-0", "a-1"]);
}

#[tokio::test(start_paused = true)]
async fn successors_wait_when_it_is_not_known_what_became_of_the_head() {
    let bench = Bench::jetstream();
    let brief = Policy { record_time: Duration::from_secs(1), ..ordered() };
    bench.store.end_faults.fail_next(4);
    publish(&bench, "a", "a-0");
    publish(&bench, "a", "a-1");

    bench.run_until(brief, |bench| bench.broker.is_settled()).await;

    // Its effect was not recorded, so it happens again, and before its successor's.
    assert_eq!(effects(&bench, "a"), [0, 0, 1]);
    assert!(bench.metrics.totals().possible_duplicates > 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_and_however_often_it_is_stopped_each_key_keeps_its_order() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bench = Bench::new(if seed % 2 == 0 {
            Redelivery::ToTheNextReader
        } else {
            Redelivery::AfterAckWait(Duration::from_secs(30))
        });
        *bench.handler.delay.lock().unwrap() = Duration::from_millis(50);
        let mut numbers = [0; 7];
        for _ in 0..200 {
            let customer = random.usize(..7);
            let id = format!("{customer}-{}", numbers[customer]);
            numbers[customer] += 1;
            publish(&bench, &customer.to_string(), &id);
            if random.u8(..10) == 0 {
                bench.handler.script(&id, [Step::End(Outcome::retryable("busy"))]);
            }
        }
        for stops in 1..=3 {
            bench.run_until(ordered(), |bench| bench.handler.effects().len() >= stops * 50).await;
        }
        bench.run_until(ordered(), |bench| bench.broker.is_settled()).await;

        for (customer, count) in numbers.into_iter().enumerate() {
            assert_eq!(effects(&bench, &customer.to_string()), (0..count).collect::<Vec<_>>(), "seed {seed}");
        }
    }
}
