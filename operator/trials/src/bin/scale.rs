//! `scale PROGRAM [COUNT]`: the operator PROGRAM with COUNT consumers, 10,000 when not given. It fails when a goal is missed.
#![allow(clippy::unwrap_used, reason = "this is test code: a panic is how it reports")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use millrace_operator_trials::scale;

/// How long nothing may be written afterwards.
const QUIET: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let program = PathBuf::from(arguments.next().expect("the first argument is the operator"));
    let count = arguments.next().map_or(10_000, |count| count.parse().expect("the second argument is a number"));
    let outcome = scale::run(&program, &operator::rbac::rules(), count, QUIET).await;
    println!("scale: idle_millicores={}", outcome.idle_millicores);
    let missed = outcome.missed();
    for goal in &missed {
        eprintln!("scale: missed: {goal}");
    }
    println!("{outcome}");
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
