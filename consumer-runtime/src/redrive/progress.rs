//! How far a redrive is: for its summary, its report, and whoever asks for its status meanwhile.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use millrace_config::replay::{REPLAY_LETTERS_MAX, REPLAY_LETTERS_MAX_BYTES, ReplayLetter, ReplayReport};
use millrace_engine::tasks;
use millrace_events::DeadLetter;
use tracing::warn;

use crate::redrive::{
    journal::{Fates, Journal},
    select::{Counts, Filter, event_id},
};

/// How often the report is written while it changes: what a killed pod leaves is as old at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How far a redrive is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(super) filter: Filter,
    pub(super) journal: Journal,
    /// Letters that could not be put back, and are where they were.
    refused: AtomicU64,
    ended: AtomicBool,
    stopped: AtomicBool,
    listed: Mutex<Vec<ReplayLetter>>,
}

impl Progress {
    pub(super) fn new(filter: Filter, journal: Journal) -> Self {
        Self {
            filter,
            journal,
            refused: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            listed: Mutex::default(),
        }
    }

    /// A letter could not be put back.
    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// There is nothing more to be put back, and nothing in hand.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Nothing more is done by this process.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// A letter would be put back.
    pub(super) fn list(&self, letter: &DeadLetter) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if listed.len() >= REPLAY_LETTERS_MAX {
            return;
        }
        listed.push(ReplayLetter {
            id: event_id(letter),
            reason: letter.reason.as_str().to_owned(),
            origin: letter.origin.to_string(),
            replays: letter.replays,
        });
        if serde_json::to_vec(&*listed).map_or(0, |json| json.len()) > REPLAY_LETTERS_MAX_BYTES {
            listed.pop();
        }
    }

    pub(crate) fn report(&self) -> ReplayReport {
        let Counts { matched, parked, unreadable, .. } = self.filter.counts();
        let Fates { succeeded, failed } = self.journal.fates();
        ReplayReport {
            matched,
            succeeded,
            failed: failed.saturating_add(self.refused.load(Ordering::Relaxed)),
            parked,
            unreadable,
            ended: self.ended.load(Ordering::Relaxed),
            stopped: self.stopped.load(Ordering::Relaxed),
            letters: self.listed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Writes the report to `path` whenever it has changed, for as long as the process lives.
    pub(super) fn keep_written(self: &Arc<Self>, path: PathBuf) {
        let progress = Arc::clone(self);
        tasks::spawn("report", async move {
            let mut written = ReplayReport::default();
            loop {
                tokio::time::sleep(REPORT_INTERVAL).await;
                let report = progress.report();
                if report != written && !report.ended && !report.stopped {
                    write(&path, &report);
                    written = report;
                }
            }
        });
    }
}

/// Writes a report. The kubelet mounts its file, so it cannot be replaced: it is overwritten, and cut only after that, so that
/// whatever a kill leaves has a whole first line.
pub(super) fn write(path: &Path, report: &ReplayReport) {
    let write = || -> io::Result<()> {
        let mut bytes = serde_json::to_vec(report)?;
        bytes.push(b'\n');
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all(&bytes)?;
        file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    };
    if let Err(error) = write() {
        warn!(%error, path = %path.display(), "the report cannot be written");
    }
}
