//! The ledger: 50,000 events on each broker, in a storm. The first argument is the folder of the programs; more
//! name brokers.

use std::{env, path::PathBuf};

use millrace_ledger::{Kind, Plan, Storm, run};

#[tokio::main]
async fn main() {
    let mut arguments = env::args().skip(1);
    let programs = PathBuf::from(arguments.next().expect("the first argument is the folder of the programs"));
    let chosen: Vec<String> = arguments.collect();
    let number = |name: &str, default: u32| {
        env::var(name).map_or(default, |text| text.parse().expect("LEDGER_* are whole numbers"))
    };
    let seed = env::var("LEDGER_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("a number"));
    let mut lines = Vec::new();
    for broker in [Kind::JetStream, Kind::Nats, Kind::Kafka] {
        if !chosen.is_empty() && !chosen.contains(&broker.to_string()) {
            continue;
        }
        println!("{broker}: LEDGER_SEED={seed}");
        let plan = Plan {
            broker,
            program: broker.program(&programs),
            events: number("LEDGER_EVENTS", 50_000),
            rate: number("LEDGER_RATE", broker.rate()),
            storm: Storm { kills: 8, zombies: 3, crashes: 2 },
            seed,
        };
        let outcome = run(plan).await;
        println!("{outcome}");
        outcome.check();
        assert!(outcome.has_met_work(), "no fault has met an event at work: the run shows nothing");
        lines.push(outcome.to_string().lines().last().unwrap_or_default().to_owned());
    }
    for line in lines {
        println!("{line}");
    }
}
