//! Putting dead letters back.

mod args;
mod select;
mod source;

use std::{process::ExitCode, sync::Arc, time::Duration};

use millrace_config::{RateLimit, RuntimeConfig};
use millrace_core::letters::LettersError;
use millrace_engine::Drained;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

pub(crate) use crate::redrive::args::RedriveArgs;
use crate::{
    redrive::{
        args::Target,
        select::{Counts, Filter, event_id},
        source::LetterSource,
    },
    signals::Stop,
    wire::{Letters, Parts},
};

/// How often it is looked whether the last letters are done.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What became of the letters that were taken.
#[derive(Clone, Copy, Debug, Default)]
struct Fates {
    succeeded: u64,
    failed: u64,
}

/// The configuration for a redrive: as the consumer has it, at the rate that is asked for.
pub(crate) fn configuration(args: &RedriveArgs, config: RuntimeConfig) -> Result<RuntimeConfig, String> {
    if !config.broker.keeps_events() || config.delivery.dead_letter.is_none() {
        return Err(
            "a redrive needs delivery.deadLetter, and a broker that keeps dead letters: jetStream or kafka".to_owned()
        );
    }
    if config.has_own_volume() && args.to == Target::Handler && !args.dry_run {
        // One process at a time has the file of the claims open, and that is the consumer.
        return Err("with idempotency.store.embedded a redrive goes to the source; use --to source".to_owned());
    }
    let mut config = config;
    config.delivery.rate_limit = Some(RateLimit { events_per_second: args.per_second, burst: Some(1) });
    Ok(config)
}

/// Puts back what `args` ask for. Says at the end what became of it; success means that nothing failed.
pub(crate) async fn run(args: RedriveArgs, parts: Parts, stop: Stop) -> ExitCode {
    let filter = Filter::new(args.clone(), parts.consumer());
    let letters = tokio::select! {
        biased;
        () = stop.requested() => return ExitCode::FAILURE,
        letters = parts.letters() => letters,
    };
    let result = match args {
        RedriveArgs { dry_run: true, .. } => list(letters, &filter).await,
        RedriveArgs { to: Target::Handler, .. } => Box::pin(handle(letters, filter.clone(), parts, stop)).await,
        RedriveArgs { to: Target::Source, .. } => put_back(letters, &filter, args.per_second, stop).await,
    };
    match result {
        Ok(fates) => {
            print_summary(&args, filter.counts(), fates);
            if fates.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            error!(%problem, "the redrive ended early; running it again goes on where it was");
            ExitCode::FAILURE
        }
    }
}

/// Lists what would be put back.
async fn list(mut letters: Letters, filter: &Filter) -> Result<Fates, LettersError> {
    while let Some(stored) = letters.reader.next().await?.filter(|_| !filter.is_complete()) {
        let place = stored.place;
        if let Some(letter) = filter.take(stored) {
            let id = event_id(&letter).unwrap_or_else(|| "-".to_owned());
            println!(
                "{place}\t{}\t{}\tattempts={}\treplays={}\tid={id}\t{}\t{}",
                letter.last_failure, letter.reason, letter.attempts, letter.replays, letter.origin, letter.error
            );
        }
    }
    Ok(Fates::default())
}

/// Has the handler of this consumer handle them, as it handles everything: with claims, attempts and, where they are used
/// up, a new dead letter.
async fn handle(letters: Letters, filter: Filter, parts: Parts, stop: Stop) -> Result<Fates, LettersError> {
    let metrics = parts.metrics.clone();
    let (reader, settler, mut ended) = LetterSource::new(letters.reader, letters.keeper, filter, parts.clock());
    let engine = Box::pin(parts.engine_on(Box::new(reader), Arc::new(settler))).await;
    let in_flight = metrics.clone();
    let finished = async move {
        // The sender lives in the reader, which the engine keeps until it has drained.
        drop(ended.wait_for(|ended| *ended).await);
        while in_flight.totals().in_flight > 0 {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    let drained = engine
        .run(async move {
            tokio::select! { () = stop.requested() => {}, () = finished => {} }
        })
        .await;
    match drained {
        Drained::Clean { .. } => {}
        Drained::Cut { unsettled } => warn!(unsettled, "cut: these letters stay where they are"),
        Drained::Failed { reason } => return Err(LettersError::Unreadable(reason)),
    }
    let totals = metrics.totals();
    Ok(Fates { succeeded: totals.handled.saturating_add(totals.duplicates_skipped), failed: totals.dead_letters })
}

/// Publishes their messages again.
async fn put_back(mut letters: Letters, filter: &Filter, per_second: u32, stop: Stop) -> Result<Fates, LettersError> {
    let mut turns = interval(Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::from_secs(1)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fates = Fates::default();
    while let Some(stored) = letters.reader.next().await?.filter(|_| !filter.is_complete()) {
        let place = stored.place;
        let Some(letter) = filter.take(stored) else { continue };
        tokio::select! {
            biased;
            () = stop.requested() => break,
            _ = turns.tick() => {}
        }
        // Confirmed first: what is put back twice by a crash in between is recognised.
        let done = async {
            letters.keeper.put_back(&letter).await?;
            letters.keeper.take_out(place, &letter.id).await
        };
        match done.await {
            Ok(()) => fates.succeeded = fates.succeeded.saturating_add(1),
            Err(problem) => {
                error!(%problem, %place, origin = %letter.origin, "not put back");
                fates.failed = fates.failed.saturating_add(1);
            }
        }
    }
    Ok(fates)
}

fn print_summary(args: &RedriveArgs, counts: Counts, fates: Fates) {
    let target = match (args.dry_run, args.to) {
        (true, _) => "none",
        (false, Target::Handler) => "handler",
        (false, Target::Source) => "source",
    };
    let Counts { matched, parked, unreadable, taken } = counts;
    let replayed = if args.dry_run { 0 } else { taken };
    let Fates { succeeded, failed } = fates;
    println!(
        "redrive: target={target} matched={matched} replayed={replayed} succeeded={succeeded} failed={failed} parked={parked} unreadable={unreadable}"
    );
}
