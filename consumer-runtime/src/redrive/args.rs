//! What is to be put back, and how.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use millrace_events::Reason;

/// Puts dead letters of this consumer back. Nothing is lost: a letter is taken out when its event is handled, or when the
/// broker has confirmed its message, and not before; running it again goes on where it was.
#[derive(Clone, Debug, Args)]
pub(crate) struct RedriveArgs {
    /// Where they go: to the handler of this consumer, in this process; or to the source, where all its consumers see the
    /// message again (others than this one recognise an event that they have done).
    #[arg(long, value_enum, default_value_t = Target::Handler)]
    pub(super) to: Target,

    /// Only letters with this reason, for example `RetriesExhausted`. May be repeated.
    #[arg(long = "reason", value_name = "REASON")]
    pub(super) reasons: Vec<Reason>,

    /// Only letters of events that came on this subject or topic. May be repeated.
    #[arg(long = "subject", value_name = "SUBJECT")]
    pub(super) subjects: Vec<String>,

    /// Only letters of events that failed last at this time or later, for example `2026-01-31T12:00:00Z`.
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<Timestamp>,

    /// Only letters of events that failed last before this time.
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<Timestamp>,

    /// Only the letter of the event with this id. May be repeated.
    #[arg(long = "event-id", value_name = "ID")]
    pub(super) event_ids: Vec<String>,

    /// Most letters put back.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(super) max_messages: u32,

    /// Most letters put back in a second.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) per_second: u32,

    /// A letter that was put back so often is parked: it stays where it is.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(super) max_replays: u32,

    /// Shows what would be put back, and does nothing.
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Notes in this file what becomes of each letter. A run that finds it goes on from there, after a kill too: each letter
    /// counts once, and `--max-messages` is for all runs together.
    #[arg(long, value_name = "FILE")]
    pub(super) journal: Option<PathBuf>,

    /// Writes the counts to this file as JSON, each second and at the end. The exit code then says only whether the redrive
    /// came to its end: an event that fails again has a new dead letter, and is in the report.
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,

    /// Serves /livez, /readyz, /metrics and /status on `--listen` meanwhile.
    #[arg(long)]
    pub(super) serve: bool,
}

/// Where dead letters go.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Target {
    /// The handler of this consumer.
    Handler,
    /// The subject or topic that they came from.
    Source,
}
