//! What every store of claims promises.

use std::{future::Future, time::Duration};

use millrace_core::{
    claim::{State, Wish},
    key::{ConsumerName, Fingerprint, Key},
    outcome::Effect,
    ports::{Claim, Claimed, IdempotencyStore, StoreError},
};

use crate::sample;

/// The lease that the suite claims with.
pub const LEASE: Duration = Duration::from_secs(2);

const WISH: Wish = Wish { fingerprint: Fingerprint::literal(b"a"), lease: LEASE };

/// Runs the suite. `wait` lets time pass for the store: by moving its clock, or by waiting.
pub async fn run<F: Future<Output = ()>>(store: &dyn IdempotencyStore, wait: impl Fn(Duration) -> F) {
    a_claim_keeps_others_out_until_it_ends(store, &wait).await;
    a_done_event_is_recognised(store).await;
    a_released_event_may_be_claimed_at_once_and_counts_attempts(store).await;
    a_holder_that_was_taken_over_is_fenced(store, &wait).await;
    an_end_that_is_repeated_is_accepted(store).await;
    another_event_with_the_same_id_is_a_conflict(store).await;
    of_many_who_race_exactly_one_wins(store).await;
}

fn key(name: &str) -> Key {
    let consumer = ConsumerName { namespace: "contract".to_owned(), name: uuid(name) };
    Key::new(&consumer, &sample::event("1"))
}

/// A name that no earlier run against the same store has used.
fn uuid(name: &str) -> String {
    format!("{name}-{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond())
}

async fn claimed(store: &dyn IdempotencyStore, key: &Key) -> Claimed {
    match store.claim(key, &WISH).await.unwrap() {
        Claim::Claimed(claimed) => claimed,
        other => panic!("expected a claim, got {other:?}"),
    }
}

async fn a_claim_keeps_others_out_until_it_ends<F: Future<Output = ()>>(
    store: &dyn IdempotencyStore,
    wait: &impl Fn(Duration) -> F,
) {
    let key = key("busy");
    claimed(store, &key).await;
    let Claim::Busy(remaining) = store.claim(&key, &WISH).await.unwrap() else { panic!("not busy") };
    assert!(remaining <= LEASE, "{remaining:?}");

    wait(LEASE + Duration::from_millis(100)).await;

    let second = claimed(store, &key).await;
    assert_eq!((second.record.attempts, second.record.uncertain), (2, 1));
}

async fn a_done_event_is_recognised(store: &dyn IdempotencyStore) {
    for state in [State::Done, State::Dead] {
        let key = key("done");
        let claim = claimed(store, &key).await;
        store.end(&key, &claim, &claim.ended(state)).await.unwrap();
        assert_eq!(store.claim(&key, &WISH).await.unwrap(), Claim::Settled);
    }
}

async fn a_released_event_may_be_claimed_at_once_and_counts_attempts(store: &dyn IdempotencyStore) {
    let key = key("released");
    for attempt in 1..=3 {
        let claim = claimed(store, &key).await;
        assert_eq!(claim.record.attempts, attempt);
        let released = claim.record.released(Effect::None, jiff::Timestamp::UNIX_EPOCH);
        store.end(&key, &claim, &released).await.unwrap();
    }
}

async fn a_holder_that_was_taken_over_is_fenced<F: Future<Output = ()>>(
    store: &dyn IdempotencyStore,
    wait: &impl Fn(Duration) -> F,
) {
    let key = key("fenced");
    let zombie = claimed(store, &key).await;
    wait(LEASE + Duration::from_millis(100)).await;
    let holder = claimed(store, &key).await;

    let refused = store.end(&key, &zombie, &zombie.ended(State::Done)).await;

    assert!(matches!(refused, Err(StoreError::Fenced)), "{refused:?}");
    store.end(&key, &holder, &holder.ended(State::Done)).await.unwrap();
    let refused = store.end(&key, &zombie, &zombie.record.released(Effect::None, jiff::Timestamp::UNIX_EPOCH)).await;
    assert!(matches!(refused, Err(StoreError::Fenced)), "{refused:?}");
    assert_eq!(store.claim(&key, &WISH).await.unwrap(), Claim::Settled);
}

async fn an_end_that_is_repeated_is_accepted(store: &dyn IdempotencyStore) {
    let key = key("repeated");
    let claim = claimed(store, &key).await;
    for _ in 0..2 {
        store.end(&key, &claim, &claim.ended(State::Done)).await.unwrap();
    }
}

async fn another_event_with_the_same_id_is_a_conflict(store: &dyn IdempotencyStore) {
    let key = key("conflict");
    claimed(store, &key).await;
    let other = Wish { fingerprint: Fingerprint::literal(b"b"), lease: LEASE };
    assert_eq!(store.claim(&key, &other).await.unwrap(), Claim::Conflict);
}

async fn of_many_who_race_exactly_one_wins(store: &dyn IdempotencyStore) {
    let key = key("race");
    // Polled together on one task: every claim is sent before the first is answered.
    let answers = futures::future::join_all((0..16).map(|_| store.claim(&key, &WISH))).await;
    let winners = answers.iter().filter(|answer| matches!(answer, Ok(Claim::Claimed(_)))).count();
    assert_eq!(winners, 1, "{answers:?}");
}
