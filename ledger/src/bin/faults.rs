//! The single faults at full length. The first argument is the folder of the programs; more name cases.

use std::{env, path::PathBuf, time::Duration};

use millrace_ledger::{
    Kind,
    faults::{Store, breaker, crash, drains, memory, store_down},
};

/// How long the store is away.
const DOWN: Duration = Duration::from_secs(30);

/// How long the receiver fails.
const FAILING: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let mut arguments = env::args().skip(1);
    let programs = PathBuf::from(arguments.next().expect("the first argument is the folder of the programs"));
    let chosen: Vec<String> = arguments.collect();
    let wanted = |case: &str| chosen.is_empty() || chosen.iter().any(|one| one == case);
    let mut lines = Vec::new();
    if wanted("store-down") {
        for store in [Store::JetStreamKv, Store::Postgres] {
            told(&mut lines, store_down(&Kind::JetStream.program(&programs), store, DOWN).await);
        }
    }
    for kind in [Kind::JetStream, Kind::Kafka] {
        let program = kind.program(&programs);
        if wanted("breaker") {
            told(&mut lines, breaker(&program, kind, 2_000, FAILING).await);
        }
        if wanted("memory") {
            told(&mut lines, memory(&program, kind, 300).await);
        }
        if wanted("drains") {
            told(&mut lines, drains(&program, kind, 200).await);
        }
    }
    if wanted("crash") {
        told(&mut lines, crash(&Kind::Kafka.program(&programs), 100_000).await);
    }
    println!("\n{}", lines.join("\n"));
}

fn told(lines: &mut Vec<String>, line: String) {
    println!("{line}");
    lines.push(line);
}
