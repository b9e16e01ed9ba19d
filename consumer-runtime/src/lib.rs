//! The shared runtime of all EventConsumers: reads its configuration, wires the parts that it names, consumes until it
//! is told to stop, and says by its exit code how that went.
//!
//! It is a library so that `bench` measures what this program wires; nothing else uses it as one.

mod admin;
mod args;
mod redrive;
mod report;
mod signals;
mod telemetry;
mod wire;

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser as _;
use millrace_config::{AddressRanges, RuntimeConfig};
use millrace_core::ports::Handler;
use millrace_engine::{Drained, Engine, tasks};
use tracing::{error, info};

use crate::{
    args::{Args, Command, Folders},
    report::Reporter,
    wire::Parts,
};

/// Exit code for a drain that its deadline cut.
const EXIT_CUT: u8 = 1;

/// Exit code for a broker client that failed for good: `EX_UNAVAILABLE` of sysexits.h.
const EXIT_FAILED: u8 = 69;

/// Exit code for a configuration that cannot be used: `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;

/// The whole program. Its exit code says how it ended.
pub fn main() -> ExitCode {
    let args = Args::parse();
    telemetry::init(args.log_format, &args.log_level);
    let config = match args.config() {
        Ok(config) => config,
        Err(problem) => {
            error!(problem, "the configuration cannot be used");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    // The Kafka client has a large block for each fetch: to map each of them costs a fifth of its speed, and saves little.
    if config.broker.kafka.is_none() {
        millrace_allocator::give_back_large_blocks();
    }
    match async_runtime() {
        // In one of the runtime's own threads: woken from outside of them, the intake would cost a switch of threads each
        // time.
        Ok(runtime) => {
            runtime.block_on(async { tasks::spawn("run", run(args, config)).await }).unwrap_or_else(|error| {
                error!(%error, "ended by a panic");
                ExitCode::FAILURE
            })
        }
        Err(error) => {
            error!(%error, "failed to start the async runtime");
            ExitCode::FAILURE
        }
    }
}

/// The async runtime of the program. One consumer waits on its network most of the time: two threads keep a small pod
/// small.
///
/// # Errors
/// When the system gives no threads or no event queue.
pub fn async_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// The engine that the program would run for `config`, connected, but with `handler` in place of its own.
///
/// # Errors
/// What in the configuration cannot be used.
pub async fn engine_with(
    config: RuntimeConfig,
    secrets: &Path,
    data: &Path,
    handler: Arc<dyn Handler>,
) -> Result<Engine, String> {
    let folders = Folders { secrets: secrets.to_owned(), data: data.to_owned() };
    let parts = Parts::new(config, folders, &AddressRanges::default(), 1.0)?.handled_by(handler);
    let reporter = Reporter::new(&parts);
    Ok(Box::pin(parts.connect(&reporter)).await)
}

async fn run(args: Args, config: RuntimeConfig) -> ExitCode {
    let consumer = format!("{}/{}", config.consumer.namespace, config.consumer.name);
    info!(version = env!("CARGO_PKG_VERSION"), consumer, "starting");
    let stop = match signals::watch() {
        Ok(stop) => stop,
        Err(error) => {
            error!(%error, "failed to watch for signals");
            return ExitCode::FAILURE;
        }
    };
    let config = match &args.command {
        Some(Command::Redrive(redrive)) => redrive::configuration(redrive, config),
        Some(Command::DeleteDurable { .. }) | None => Ok(config),
    };
    let parts = config.and_then(|config| Parts::new(config, args.folders(), &args.http_allow, args.trace_ratio));
    let parts = match parts {
        Ok(parts) => parts,
        Err(problem) => {
            error!(problem, "the configuration cannot be used");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match args.command {
        Some(Command::Redrive(redrive)) => return Box::pin(redrive::run(redrive, parts, args.listen, stop)).await,
        Some(Command::DeleteDurable { within_seconds }) => return delete_durable(&parts, within_seconds, stop).await,
        None => {}
    }
    let reporter = Arc::new(Reporter::new(&parts));
    if let Err(error) = admin::serve(args.listen, Arc::clone(&reporter), parts.registry()).await {
        error!(%error, address = %args.listen, "failed to listen");
        return ExitCode::FAILURE;
    }
    if parts.is_paused() {
        return Box::pin(pause(&parts, &reporter, stop)).await;
    }
    let traces = parts.traces.clone();
    let engine = tokio::select! {
        biased;
        () = stop.requested() => {
            info!("stopped before the first event");
            return ExitCode::SUCCESS;
        }
        engine = parts.connect(&reporter) => engine,
    };
    reporter.running();
    let draining = Arc::clone(&reporter);
    let drained = engine
        .run(async move {
            stop.requested().await;
            draining.draining();
        })
        .await;
    if let Some(traces) = traces {
        traces.close().await;
    }
    match drained {
        Drained::Clean { handed_back } => {
            info!(handed_back, "drained clean");
            ExitCode::SUCCESS
        }
        Drained::Cut { unsettled } => {
            error!(
                unsettled,
                "the drain was cut at its deadline: what was at work is delivered again, or lost with NATS core"
            );
            ExitCode::from(EXIT_CUT)
        }
        Drained::Failed { reason } => {
            error!(reason, "the broker's client has failed for good: ending, so that another process can go on");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Takes nothing until it is told to stop. There is nothing to drain.
async fn pause(parts: &Parts, reporter: &Reporter, stop: signals::Stop) -> ExitCode {
    let pausing = async {
        let _held = parts.connect_paused(reporter).await;
        reporter.paused();
        info!("paused: no event is taken");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = stop.requested() => info!("stopped while paused"),
        () = pausing => {}
    }
    ExitCode::SUCCESS
}

/// Success means that there is no durable any more.
async fn delete_durable(parts: &Parts, within_seconds: u64, stop: signals::Stop) -> ExitCode {
    let deleting = tokio::time::timeout(Duration::from_secs(within_seconds), parts.delete_durable());
    let deleted = tokio::select! {
        biased;
        () = stop.requested() => false,
        deleted = deleting => deleted.is_ok(),
    };
    if deleted {
        info!("the durable is deleted");
        return ExitCode::SUCCESS;
    }
    let why = parts.health.troubles().into_iter().next().map(|(_, trouble)| trouble.message);
    error!(why, "the durable is not deleted");
    ExitCode::FAILURE
}
