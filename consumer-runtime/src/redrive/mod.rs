//! Putting dead letters back.

mod args;
mod journal;
mod progress;
mod select;
mod source;

use std::{collections::HashSet, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use millrace_config::{RateLimit, RuntimeConfig, replay::ReplayReport};
use millrace_core::{health::Part, letters::LettersError};
use millrace_engine::{Drained, OnExhausted};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

pub(crate) use crate::redrive::{args::RedriveArgs, progress::Progress};
use crate::{
    admin,
    redrive::{
        args::Target,
        journal::{Journal, Unfinished},
        select::{Filter, event_id},
        source::{AnnouncedLetters, LetterSettler, LetterSource, take_out},
    },
    report::Reporter,
    signals::Stop,
    wire::{Letters, Parts},
};

/// How long one that is told to stop in the middle still serves what it came to. The operator looks every three seconds, and a pod
/// that is deleted is gone when it has ended, with its termination message. The grace period has room for it.
const HAND_OVER: Duration = Duration::from_secs(6);

/// How often it is looked whether the last letters are done.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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

/// Puts back what `args` ask for, and says at the end what became of it. Success means that it came to its end and that
/// nothing failed; with a report, that it came to its end and that every letter is done with.
pub(crate) async fn run(args: RedriveArgs, parts: Parts, listen: SocketAddr, stop: Stop) -> ExitCode {
    let progress = match Journal::open(args.journal.as_deref()) {
        Ok(journal) => Arc::new(Progress::new(Filter::new(args.clone(), parts.consumer()), journal)),
        Err(error) => {
            error!(%error, journal = ?args.journal, "the journal cannot be used");
            return ExitCode::FAILURE;
        }
    };
    if args.serve {
        let reporter = Arc::new(Reporter::new(&parts));
        reporter.replay_from(Arc::clone(&progress));
        reporter.running();
        if let Err(error) = admin::serve(listen, reporter, parts.registry()).await {
            error!(%error, address = %listen, "failed to listen");
            return ExitCode::FAILURE;
        }
    }
    if let Some(path) = &args.report {
        progress.keep_written(path.clone());
    }
    if let Err(problem) = Box::pin(put_back_all(&args, parts, &progress, stop)).await {
        error!(%problem, "the redrive ended early");
    }
    progress.stop();
    let report = progress.report();
    print_summary(&args, &report);
    if let Some(path) = &args.report {
        progress::write(path, &report);
    }
    if !report.ended {
        error!("not every letter is done with; running it again goes on where it was");
        if args.serve {
            tokio::time::sleep(HAND_OVER).await;
        }
    }
    let is_told = args.report.is_some() && args.to == Target::Handler;
    if report.ended && (is_told || report.failed == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn put_back_all(
    args: &RedriveArgs,
    parts: Parts,
    progress: &Arc<Progress>,
    stop: Stop,
) -> Result<(), LettersError> {
    let letters = tokio::select! {
        biased;
        () = stop.requested() => return Ok(()),
        letters = open(&parts, progress) => letters?,
    };
    match args {
        RedriveArgs { dry_run: true, .. } => list(letters, progress).await,
        RedriveArgs { to: Target::Handler, .. } => Box::pin(handle(letters, progress, parts, stop)).await,
        RedriveArgs { to: Target::Source, .. } => put_back(letters, progress, args.per_second, stop).await,
    }
}

/// The letters, once what an earlier run left in the middle is finished.
async fn open(parts: &Parts, progress: &Progress) -> Result<Letters, LettersError> {
    let mut letters = parts.letters().await;
    parts.health.works(Part::Broker);
    let Unfinished { announced, ended } = progress.journal.unfinished();
    let is_fresh = announced.is_empty() && ended.is_empty();
    for (place, id) in ended {
        take_out(progress, letters.keeper.as_ref(), place, &id).await.map_err(LettersError::TakeOut)?;
    }
    if !announced.is_empty() {
        let mut there = HashSet::new();
        while let Some(stored) = letters.reader.next().await? {
            there.extend(stored.letter.ok().map(|letter| letter.id));
        }
        for (place, id, again) in announced {
            if there.contains(&again) {
                progress.journal.published(place);
                take_out(progress, letters.keeper.as_ref(), place, &id).await.map_err(LettersError::TakeOut)?;
            } else {
                progress.journal.withdraw(place);
            }
        }
    }
    let fates = progress.journal.fates();
    progress.filter.after(fates.succeeded.saturating_add(fates.failed));
    // A reader sees what was there when it was made.
    Ok(if is_fresh { letters } else { parts.letters().await })
}

/// Lists what would be put back.
async fn list(mut letters: Letters, progress: &Progress) -> Result<(), LettersError> {
    while let Some(stored) = letters.reader.next().await?.filter(|_| !progress.filter.is_complete()) {
        let place = stored.place;
        if let Some(letter) = progress.filter.take(stored) {
            let id = event_id(&letter).unwrap_or_else(|| "-".to_owned());
            println!(
                "{place}\t{}\t{}\tattempts={}\treplays={}\tid={id}\t{}\t{}",
                letter.last_failure, letter.reason, letter.attempts, letter.replays, letter.origin, letter.error
            );
            progress.list(&letter);
        }
    }
    progress.end();
    Ok(())
}

/// Has the handler of this consumer handle them, as it handles everything: with claims, attempts and, where they are used
/// up, a new dead letter.
async fn handle(letters: Letters, progress: &Arc<Progress>, parts: Parts, stop: Stop) -> Result<(), LettersError> {
    let metrics = parts.metrics.clone();
    let (reader, taken, mut ended) = LetterSource::new(letters.reader, Arc::clone(progress), parts.clock());
    let settler = LetterSettler::new(letters.keeper, Arc::clone(progress), Arc::clone(&taken));
    let mut engine = tokio::select! {
        biased;
        () = stop.requested() => return Ok(()),
        engine = Box::pin(parts.engine_on(Box::new(reader), Arc::new(settler))) => engine,
    };
    engine.on_exhausted = match engine.on_exhausted {
        OnExhausted::DeadLetter(letters) => {
            let announced = AnnouncedLetters::new(letters, Arc::clone(progress), Arc::clone(&taken));
            OnExhausted::DeadLetter(Arc::new(announced))
        }
        other @ (OnExhausted::Pause | OnExhausted::Drop) => other,
    };
    let finished = async move {
        // The sender lives in the reader, which the engine keeps until it has drained.
        drop(ended.wait_for(|ended| *ended).await);
        while metrics.totals().in_flight > 0 {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    let drained = engine
        .run(async {
            tokio::select! {
                biased;
                () = stop.requested() => {}
                () = finished => if taken.is_empty() && progress.journal.is_finished() { progress.end() },
            }
        })
        .await;
    match drained {
        Drained::Clean { .. } => Ok(()),
        Drained::Cut { unsettled } => {
            warn!(unsettled, "cut: these letters stay where they are");
            Ok(())
        }
        Drained::Failed { reason } => Err(LettersError::Unreadable(reason)),
    }
}

/// Publishes their messages again.
async fn put_back(mut letters: Letters, progress: &Progress, per_second: u32, stop: Stop) -> Result<(), LettersError> {
    let mut turns = interval(Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::from_secs(1)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while let Some(stored) = letters.reader.next().await?.filter(|_| !progress.filter.is_complete()) {
        let place = stored.place;
        let Some(letter) = progress.filter.take(stored) else { continue };
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            _ = turns.tick() => {}
        }
        if let Err(problem) = letters.keeper.put_back(&letter).await {
            error!(%problem, %place, origin = %letter.origin, "not put back");
            progress.refused();
            continue;
        }
        // Confirmed first: what is put back twice by a crash in between is recognised.
        take_out(progress, letters.keeper.as_ref(), place, &letter.id).await.map_err(LettersError::TakeOut)?;
    }
    progress.end();
    Ok(())
}

fn print_summary(args: &RedriveArgs, report: &ReplayReport) {
    let target = match (args.dry_run, args.to) {
        (true, _) => "none",
        (false, Target::Handler) => "handler",
        (false, Target::Source) => "source",
    };
    let ReplayReport { matched, succeeded, failed, parked, unreadable, .. } = report;
    let replayed = succeeded.saturating_add(*failed);
    println!(
        "redrive: target={target} matched={matched} replayed={replayed} succeeded={succeeded} failed={failed} parked={parked} unreadable={unreadable}"
    );
}
