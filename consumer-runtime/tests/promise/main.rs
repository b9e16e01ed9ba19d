//! The promise, on processes and in a storm: the short form of `make ledger` and `make faults`.

use std::{path::Path, time::Duration};

use millrace_ledger::{
    Kind, Plan, Storm,
    faults::{Store, breaker, crash, drains, memory, store_down},
    run,
};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_consumer-runtime"))
}

async fn storm(broker: Kind, storm: Storm) {
    let plan = Plan { broker, program: program().to_owned(), events: 3_000, rate: 200, storm, seed: 7 };
    let outcome = run(plan).await;
    println!("{outcome}");
    outcome.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_jetstream_loses_nothing_doubles_nothing_and_keeps_the_order_of_keys() {
    storm(Kind::JetStream, Storm { kills: 2, zombies: 1, crashes: 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_nats_core_doubles_nothing_and_tells_what_it_loses() {
    storm(Kind::Nats, Storm { kills: 2, zombies: 0, crashes: 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_kafka_loses_nothing_doubles_nothing_and_keeps_the_order_of_keys() {
    storm(Kind::Kafka, Storm { kills: 1, zombies: 0, crashes: 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_stops_fetching_and_effects_within_a_second_and_loses_nothing() {
    for store in [Store::JetStreamKv, Store::Postgres] {
        println!("{}", store_down(program(), store, Duration::from_secs(5)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_for_every_event_costs_no_attempts_and_no_processor_time() {
    println!("{}", breaker(program(), Kind::JetStream, 300, Duration::from_secs(8)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_of_jetstream_are_held_within_the_budget_of_bytes() {
    println!("{}", memory(program(), Kind::JetStream, 80).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_of_kafka_are_held_within_the_budget_of_bytes() {
    println!("{}", memory(program(), Kind::Kafka, 80).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_of_jetstream_under_load_are_clean() {
    println!("{}", drains(program(), Kind::JetStream, 8).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_kafka_that_dies_behind_a_slow_event_has_little_delivered_again() {
    println!("{}", crash(program(), 2_000).await);
}
