//! Protects what fails: attempts, outages, and what becomes of an event that is given up.

use bytes::Bytes;
use millrace_core::{
    backoff::Backoff, claim::Record, claim::State, health::Part, key::Fingerprint, key::Key, outcome::Outcome,
    ports::Claim, ports::IdempotencyStore as _, ports::Redelivery, retry::RetryPolicy, settle::Settlement,
    time::Clock as _, time::Monotonic,
};
use millrace_engine::{Engine, OnExhausted, Policy};
use millrace_events::{Headers, Reason};
use millrace_testkit::{handler::Step, sample};
use std::time::Duration;
use tokio::sync::oneshot;

use crate::support::{Bench, clean, consumer, policy};

#[tokio::test(start_paused = true)]
async fn a_bad_message_is_dead_lettered_at_its_first_delivery_with_its_bytes_and_blocks_nobody() {
    let bench = Bench::jetstream();
    let mut headers = Headers::new();
    headers.push("X-Trace", "abc");
    let payload = Bytes::from_static(b"{\"event_id\": tr\xff");
    bench.broker.publish(headers.clone(), payload.clone());
    bench.broker.publish(Headers::new(), vec![b'x'; 20_000]);
    bench.publish("good");

    bench.run_until_settled().await;

    assert_eq!(bench.handler.effects(), ["good"]);
    let letters = bench.broker.dead_letters();
    let reasons: Vec<_> = letters.iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, [Reason::Undecodable, Reason::TooLarge]);
    let letter = letters.first().unwrap();
    assert_eq!((&letter.payload, &letter.headers, letter.attempts), (&payload, &headers, 1));
    assert_eq!(letter.consumer, "shop/emails");
}

#[tokio::test(start_paused = true)]
async fn a_failing_attempt_is_repeated_with_growing_delays_until_the_attempts_are_used_up() {
    let bench = Bench::jetstream();
    let fail = || Step::End(Outcome::retryable("connection refused"));
    bench.handler.script("heals", [fail(), fail()]);
    bench.handler.script("never", [fail(), fail(), fail(), fail()]);
    let (heals, never) = (bench.publish("heals"), bench.publish("never"));

    bench.run_until_settled().await;

    assert_eq!(bench.handler.effects(), ["heals"]);
    assert_eq!((bench.broker.delivered(heals), bench.broker.delivered(never)), (3, 3));
    let letters = bench.broker.dead_letters();
    let letter = letters.first().unwrap();
    assert_eq!(
        (letter.reason, letter.attempts, letter.error.as_str()),
        (Reason::RetriesExhausted, 3, "connection refused")
    );
    let delays: Vec<u128> = bench
        .broker
        .settlements()
        .iter()
        .filter(|(sequence, _)| *sequence == never)
        .filter_map(|(_, settlement)| match settlement {
            Settlement::RetryAfter(delay) => Some(delay.as_millis()),
            Settlement::Done | Settlement::Extend => None,
        })
        .collect();
    assert!(matches!(delays.as_slice(), [400..=600, 800..=1200]), "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_a_hang_are_failed_attempts_whose_effect_is_uncertain() {
    let bench = Bench::jetstream();
    bench.handler.script("panics", [Step::Panic]);
    bench.handler.script("hangs", [Step::Hang]);
    bench.publish("panics");
    bench.publish("hangs");

    bench.run_until_settled().await;

    let mut effects = bench.handler.effects();
    effects.sort_unstable();
    assert_eq!(effects, ["hangs", "panics"]);
    assert_eq!(bench.metrics.totals().possible_duplicates, 2, "each second attempt may have repeated an effect");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_kills_its_process_is_dead_lettered_without_another_attempt() {
    let bench = Bench::jetstream();
    let event = sample::event("killer");
    // Three processes have claimed it and died: their claims have ended and were never recorded.
    let record = Record {
        state: State::Claimed { until: jiff::Timestamp::UNIX_EPOCH },
        attempts: 3,
        uncertain: 2,
        first_failure: None,
        fingerprint: Fingerprint::of(&event),
    };
    let origin_event = {
        let sequence = bench.publish("killer");
        assert_eq!(sequence, 1);
        // The key depends on the source, which is the stream of the broker under test.
        millrace_events::Event { source: "jetstream://MEMORY".to_owned(), ..event }
    };
    let key = Key::new(&consumer(), &origin_event);
    let wish = millrace_core::claim::Wish { fingerprint: record.fingerprint, lease: Duration::from_secs(1) };
    let Claim::Claimed(claim) = bench.store.claim(&key, &wish).await.unwrap() else { panic!() };
    bench.store.end(&key, &claim, &record).await.unwrap();

    bench.run_until_settled().await;

    assert_eq!(bench.handler.attempts(), 0);
    let letters = bench.broker.dead_letters();
    let letter = letters.first().unwrap();
    assert_eq!((letter.reason, letter.attempts), (Reason::RetriesExhausted, 3));
}

#[tokio::test(start_paused = true)]
async fn while_the_handler_cannot_work_nothing_is_fetched_and_no_event_is_given_up() {
    let bench = Bench::jetstream();
    for id in 0..200 {
        bench.publish(&id.to_string());
    }
    bench.handler.set_outage(true);
    let outage_end = Monotonic(Duration::from_secs(3600 / 2));

    let drained = bench.run_until(policy(), |bench| {
        let during = bench.clock.monotonic() < outage_end;
        if bench.clock.monotonic() > Monotonic(Duration::from_secs(1)) && during {
            let troubles = bench.health.troubles();
            assert_eq!(troubles.first().map(|(part, _)| *part), Some(Part::Handler), "it is told");
        }
        bench.handler.set_outage(during);
        bench.broker.is_settled()
    });

    assert_eq!(drained.await, clean());
    assert_eq!((bench.handler.effects().len(), bench.broker.dead_letters().len()), (200, 0));
    assert!(bench.health.is_ready());
    // What was at work when it failed has spent an attempt, and hardly anything after that.
    let spent = bench.handler.attempts() - 200;
    assert!(spent <= 20, "{spent} attempts were spent on a handler that cannot work");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_there_is_no_effect_no_attempt_is_spent_and_nothing_is_fetched() {
    let bench = Bench::jetstream();
    bench.store.claim_faults.fail_next(u32::MAX);
    bench.store.ping_faults.fail_next(u32::MAX);
    for id in 0..50 {
        bench.publish(&id.to_string());
    }
    let fetched = std::sync::Mutex::new(0);
    let outage = |bench: &Bench| {
        let mut fetched = fetched.lock().unwrap();
        if *fetched == 0 && bench.metrics.totals().deliveries > 0 {
            *fetched = bench.metrics.totals().deliveries;
        }
        bench.clock.monotonic().0 > Duration::from_secs(30)
    };

    bench.run_until(policy(), outage).await;

    assert_eq!(bench.handler.attempts(), 0);
    assert!(bench.store.claim_faults.failed() > 0);
    assert!(!bench.health.is_ready());
    assert_eq!(bench.metrics.totals().deliveries, *fetched.lock().unwrap(), "fetching went on");

    bench.store.claim_faults.fail_next(0);
    bench.store.ping_faults.fail_next(0);
    bench.run_until_settled().await;
    assert_eq!(bench.handler.effects().len(), 50);
    assert!(bench.broker.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_effect_is_recorded_with_patience_and_never_acked_before_it_is() {
    let bench = Bench::jetstream();
    bench.store.end_faults.fail_next(20);
    bench.publish("1");

    bench.run_until_settled().await;

    assert_eq!(bench.store.end_faults.failed(), 20);
    assert_eq!(bench.handler.effects(), ["1"]);
    assert_eq!(bench.metrics.totals().possible_duplicates, 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_old_is_given_up_and_one_that_was_done_in_time_stays_a_duplicate() {
    let bench = Bench::jetstream();
    let ago = |seconds| bench.clock.wall() - jiff::SignedDuration::from_secs(seconds);
    let backoff = Backoff { initial: Duration::from_secs(100), max: Duration::from_secs(1000), jitter_percent: 0 };
    let retry = RetryPolicy { max_attempts: 9, max_age: Some(Duration::from_secs(3600)), backoff };
    let hour = || Policy { retry, ..policy() };
    let publish = |id: &str, seconds| bench.broker.publish_at(ago(seconds), Headers::new(), sample::order(id));
    let fail = || Step::End(Outcome::retryable("connection refused"));
    bench.handler.script("failing", [fail(), fail(), fail(), fail()]);
    publish("new", 0);
    publish("old", 7200);
    // It has 300 s left: enough for the delays of 100 s and 200 s, and not for that of 400 s.
    publish("failing", 3300);

    bench.run_until(hour(), |bench| bench.broker.is_settled()).await;

    assert_eq!((bench.handler.effects(), bench.handler.attempts()), (vec!["new".to_owned()], 4));
    let letters = bench.broker.dead_letters();
    let given_up: Vec<_> = letters.iter().map(|letter| (letter.reason, letter.attempts)).collect();
    assert_eq!(given_up, [(Reason::Expired, 0), (Reason::Expired, 3)]);

    publish("new", 7200);
    bench.run_until(hour(), |bench| bench.broker.is_settled()).await;
    assert_eq!((bench.broker.dead_letters().len(), bench.metrics.totals().duplicates_skipped), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_dropped_is_settled_and_counted() {
    let bench = Bench { on_exhausted: |_| OnExhausted::Drop, ..Bench::jetstream() };
    let fail = || Step::End(Outcome::retryable("connection refused"));
    bench.handler.script("never", [fail(), fail(), fail()]);
    bench.broker.publish(Headers::new(), "not json");
    bench.publish("never");
    bench.publish("good");

    bench.run_until_settled().await;

    assert_eq!((bench.handler.effects(), bench.metrics.totals().dropped), (vec!["good".to_owned()], 2));
    assert!(bench.broker.dead_letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_to_pause_everything_stays_and_has_all_its_attempts_again_after_a_restart() {
    let bench = Bench { on_exhausted: |_| OnExhausted::Pause, ..Bench::jetstream() };
    let fail = || Step::End(Outcome::retryable("connection refused"));
    bench.handler.script("never", [fail(), fail(), fail(), fail(), fail()]);
    bench.publish("never");
    let paused = |bench: &Bench| bench.health.troubles().first().is_some_and(|(part, _)| *part == Part::Intake);

    let published_later = std::cell::Cell::new(false);
    let drained = bench.run_until(policy(), |bench| {
        if paused(bench) && !published_later.replace(true) {
            bench.publish("later");
        }
        bench.clock.monotonic() > Monotonic(Duration::from_secs(300))
    });

    assert_eq!(drained.await, clean());
    assert_eq!(bench.handler.attempts(), 3, "nothing is taken after it, and it is not tried again");
    let (_, trouble) = bench.health.troubles().pop().unwrap();
    for part in ["MEMORY", "RetriesExhausted: connection refused", "rollout restart deployment/emails"] {
        assert!(trouble.message.contains(part), "{trouble}");
    }

    // After a restart it fails twice more, and then succeeds.
    bench.run_until_settled().await;
    assert_eq!(bench.handler.effects().iter().filter(|id| *id == "never").count(), 1);
    assert!(bench.handler.effects().contains(&"later".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn retries_that_wait_here_are_counted_where_no_claim_is_kept() {
    let bench = Bench::new(Redelivery::ToTheNextReader);
    bench.handler.set_failing(true);
    bench.publish("fails");
    let (stop, stopped) = oneshot::channel::<()>();
    let engine = Engine { store: None, ..bench.engine(policy()) };

    let running = engine.run(async { stopped.await.unwrap() });
    let watching = async {
        while bench.broker.dead_letters().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.send(()).unwrap();
    };
    tokio::join!(running, watching);

    let letter = bench.broker.dead_letters().remove(0);
    assert_eq!((letter.reason, letter.attempts), (Reason::RetriesExhausted, policy().retry.max_attempts));
}
