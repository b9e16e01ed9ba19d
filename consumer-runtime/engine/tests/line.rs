//! Protects the delivery rules, on a broker and a store whose faults are planned and with time under control.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_core::{
    backoff::Backoff,
    claim::{Record, State},
    health::{Health, Part},
    key::{ConsumerName, Key, fingerprint},
    outcome::Outcome,
    ports::{Claim, Handler, IdempotencyStore, Redelivery, Settler},
    rate::Rate,
    retry::RetryPolicy,
    routing::Routing,
    settle::Settlement,
    time::{Clock, Monotonic},
};
use millrace_engine::{CircuitPolicy, Drained, Engine, OnExhausted, Policy, clock::TokioClock, metrics::Metrics};
use millrace_events::{Headers, Reason};
use millrace_store::MemoryStore;
use millrace_testkit::{
    broker::MemoryBroker,
    handler::{LedgerHandler, Step},
    sample,
    store::FaultyStore,
};
use tokio::sync::oneshot;

const ACK_WAIT: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(1_000_000);

/// Everything that an engine under test works with.
struct Bench {
    clock: Arc<TokioClock>,
    broker: MemoryBroker,
    store: Arc<FaultyStore>,
    handler: Arc<LedgerHandler>,
    metrics: Metrics,
    health: Arc<Health>,
    on_exhausted: fn(&MemoryBroker) -> OnExhausted,
}

fn consumer() -> ConsumerName {
    ConsumerName { namespace: "shop".to_owned(), name: "emails".to_owned() }
}

fn policy() -> Policy {
    let pauses = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1), jitter_percent: 0 };
    let backoff = Backoff { initial: Duration::from_millis(500), max: Duration::from_secs(60), jitter_percent: 20 };
    Policy {
        consumer: consumer(),
        workers: 4,
        routing: Routing::default(),
        retry: RetryPolicy { max_attempts: 3, max_age: None, backoff },
        rate: None,
        circuit: None,
        attempt_timeout: Duration::from_secs(20),
        lease: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(25),
        in_flight_messages: 100,
        in_flight_bytes: 1_000_000,
        payload_bytes: 10_000,
        record_time: Duration::from_secs(300),
        reconnect: pauses,
    }
}

impl Bench {
    fn new(redelivery: Redelivery) -> Self {
        let clock = Arc::new(TokioClock::start());
        let memory = MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>, 100_000, RETENTION);
        Self {
            broker: MemoryBroker::new(Arc::clone(&clock) as Arc<dyn Clock>, redelivery),
            store: Arc::new(FaultyStore::new(Arc::new(memory), true)),
            handler: Arc::default(),
            metrics: Metrics::default(),
            health: Arc::new(Health::starting([])),
            on_exhausted: |broker| OnExhausted::DeadLetter(Arc::new(broker.clone())),
            clock,
        }
    }

    fn jetstream() -> Self {
        Self::new(Redelivery::AfterAckWait(ACK_WAIT))
    }

    fn publish(&self, id: &str) -> u64 {
        self.broker.publish(Headers::new(), sample::order(id))
    }

    fn engine(&self, policy: Policy) -> Engine {
        Engine {
            policy,
            reader: Box::new(self.broker.reader()),
            settler: Arc::new(self.broker.clone()) as Arc<dyn Settler>,
            store: Some(Arc::clone(&self.store) as Arc<dyn IdempotencyStore>),
            handler: Arc::clone(&self.handler) as Arc<dyn Handler>,
            on_exhausted: (self.on_exhausted)(&self.broker),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            health: Arc::clone(&self.health),
            metrics: self.metrics.clone(),
        }
    }

    /// Runs an engine until `done`, then drains it.
    async fn run_until(&self, policy: Policy, done: impl Fn(&Self) -> bool) -> Drained {
        let (stop, stopped) = oneshot::channel::<()>();
        let running = self.engine(policy).run(async { stopped.await.unwrap() });
        let watching = async {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
            while !done(self) {
                assert!(tokio::time::Instant::now() < deadline, "not done within an hour: {:?}", self.metrics.totals());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            stop.send(()).unwrap();
        };
        tokio::join!(running, watching).0
    }

    async fn run_until_settled(&self) -> Drained {
        self.run_until(policy(), |bench| bench.broker.is_settled()).await
    }
}

fn clean() -> Drained {
    Drained::Clean { handed_back: 0 }
}

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
async fn a_confirmation_that_is_lost_is_asked_for_again_and_causes_no_second_effect() {
    let bench = Bench::jetstream();
    bench.broker.confirm_faults.fail_next(2);
    bench.publish("1");

    bench.run_until_settled().await;

    assert_eq!(bench.broker.confirm_faults.failed(), 2);
    assert_eq!(bench.handler.effects(), ["1"]);
}

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
        fingerprint: fingerprint(&event),
    };
    let origin_event = {
        let sequence = bench.publish("killer");
        assert_eq!(sequence, 1);
        // The key depends on the source, which is the stream of the broker under test.
        millrace_events::Event { source: "jetstream://MEMORY".to_owned(), ..event }
    };
    let key = Key::new(&consumer(), &origin_event);
    let wish = millrace_core::claim::Wish { fingerprint: &record.fingerprint, lease: Duration::from_secs(1) };
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
