//! Measures the runtime's hot path beside hand-written loops on the same broker, in the same rounds. What the measures
//! mean is in `bench/README.md`.
//!
//! Every run is a process of its own, so that its CPU time and memory are its own: this program starts itself with the
//! command `run`.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot be made says why; counts are far below 2^52"
)]

mod handler;
mod job;
mod ledger;
mod loops;
mod meter;
mod orders;
mod plan;
mod process;
mod report;
mod runtime;
mod seed;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{job::Job, plan::Plan, report::Report};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Small counts and five rounds: some three minutes.
    Smoke(Options),
    /// More of both, for people: some fifteen minutes.
    Full(Options),
    /// One run, as JSON. For this program itself.
    #[command(hide = true)]
    Run { job: String },
}

#[derive(clap::Args)]
struct Options {
    /// The program to measure as a process: `consumer-runtime`.
    #[arg(long)]
    runtime: PathBuf,
    /// Only the parts whose names start with one of these: `jetstream`, `sleep`, `stores`, `kafka`, `process`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// So many times fewer messages, and one round: a test that the benchmark works.
    #[arg(long, hide = true, default_value_t = 1)]
    less: u64,
}

fn main() -> ExitCode {
    let (options, plan) = match Args::parse().command {
        Command::Run { job } => {
            let job: Job = serde_json::from_str(&job).unwrap();
            println!("{}", serde_json::to_string(&job.run()).unwrap());
            return ExitCode::SUCCESS;
        }
        Command::Smoke(options) => (options, Plan::smoke()),
        Command::Full(options) => (options, Plan::full()),
    };
    let plan = if options.less > 1 { plan.reduced(options.less) } else { plan };
    let mut report = Report::default();
    let driver = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    driver.block_on(plan.measure(&options.runtime, &options.only, &mut report));
    report.print();
    if report.ids_are_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
