//! Publishes a stream of a shop's events: orders, shipments and payments, some twice, some poisonous.

mod args;
mod generate;
mod ids;
mod poison;
mod progress;
mod run;
mod streams;
mod summary;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;

#[tokio::main]
async fn main() -> ExitCode {
    match run::run(&Args::parse()).await {
        Ok(summary) => {
            print!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("producer: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with all its causes on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
