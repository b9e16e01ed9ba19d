//! What waits and what is at work, from the reports of all pods, and when that is worth a write. Pure.
//!
//! A lag moves all the time, and every write of a status wakes everybody who watches it. So a value that moves is written
//! together with whatever else changes, alone only at bounded intervals, and never while it stays.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_config::status::StatusReport;
use millrace_operator_api::{DeadLetters, Lag};

/// How soon a lag that moved much is written alone, and one that moved at all.
const MUCH_INTERVAL: SignedDuration = SignedDuration::from_secs(30);
const LITTLE_INTERVAL: SignedDuration = SignedDuration::from_secs(300);

/// Age in seconds from which on a change of the oldest event counts as much.
const OLD_SECONDS: i64 = 60;

/// What the pods report together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Figures {
    /// Events that nobody has taken; unknown when somebody whose share counts has not said, or nobody has a share yet.
    pub pending: Option<u64>,
    /// Events at work.
    pub in_flight: u64,
    /// Age in seconds of the oldest of them.
    pub oldest_seconds: Option<u64>,
    /// Partitions that all pods hold together; unknown like `pending`, and with brokers that have none.
    pub partitions: Option<u32>,
    /// Dead letters that wait.
    pub dead_letters: Option<u64>,
    /// When the last of them came.
    pub last_dead_letter: Option<Timestamp>,
}

/// Adds up what pods report; nothing when none of them does.
pub fn add_up<'a>(reports: impl IntoIterator<Item = Option<&'a StatusReport>>) -> Option<Figures> {
    let all: Vec<_> = reports.into_iter().collect();
    let answers: Vec<_> = all.iter().flatten().map(|report| &report.lag).collect();
    let first = answers.first()?;
    let complete = answers.len() == all.len();
    let lanes = answers.iter().map(|lag| lag.partitions);
    let lanes = lanes.reduce(|sum, held| Some(sum?.saturating_add(held?))).flatten().filter(|_| complete);
    let pending = if first.is_share {
        let shares = answers.iter().map(|lag| lag.pending);
        let sum = shares.reduce(|sum, share| Some(sum?.saturating_add(share?))).flatten();
        // While the pods still share them out, nobody looks at what waits in a partition.
        sum.filter(|_| complete && lanes != Some(0))
    } else {
        // All ask the same durable, one a moment after the other.
        answers.iter().filter_map(|lag| lag.pending).max()
    };
    Some(Figures {
        pending,
        partitions: lanes,
        in_flight: answers.iter().fold(0, |sum, lag| sum.saturating_add(lag.in_flight)),
        oldest_seconds: answers.iter().filter_map(|lag| lag.oldest_seconds).max(),
        dead_letters: answers.iter().filter_map(|lag| lag.dead_letters).max(),
        last_dead_letter: answers.iter().filter_map(|lag| lag.last_dead_letter).max(),
    })
}

impl Figures {
    /// As they stand in a status.
    pub fn told(&self, now: Timestamp) -> (Lag, Option<DeadLetters>) {
        let lag = Lag {
            pending: self.pending.map(signed),
            in_flight: signed(self.in_flight),
            oldest_seconds: self.oldest_seconds.map(|seconds| signed(rounded(seconds))).filter(|seconds| *seconds > 0),
            observed_time: Time(now),
        };
        let last_time = self.last_dead_letter.map(Time);
        (lag, self.dead_letters.map(|pending| DeadLetters { pending: signed(pending), last_time }))
    }
}

/// Whether figures that are all that changed since `before` are worth a write.
pub fn is_worth_a_write(before: (&Lag, &DeadLetters), now: (&Lag, &DeadLetters)) -> bool {
    let ((before, letters), (lag, letters_now)) = (before, now);
    let age = lag.observed_time.0.duration_since(before.observed_time.0);
    let same = (before.pending, before.in_flight, before.oldest_seconds, letters)
        == (lag.pending, lag.in_flight, lag.oldest_seconds, letters_now);
    let (pending, pending_now) = (before.pending.unwrap_or_default(), lag.pending.unwrap_or_default());
    let (oldest, oldest_now) = (before.oldest_seconds.unwrap_or_default(), lag.oldest_seconds.unwrap_or_default());
    let much = (pending == 0) != (pending_now == 0)
        || moved(pending, pending_now)
        || moved(before.in_flight, lag.in_flight)
        || moved(letters.pending, letters_now.pending)
        || (oldest != oldest_now && oldest.max(oldest_now) >= OLD_SECONDS);
    !same && age >= if much { MUCH_INTERVAL } else { LITTLE_INTERVAL }
}

/// By at least ten and a tenth.
fn moved(before: i64, now: i64) -> bool {
    let difference = before.abs_diff(now);
    difference >= 10 && difference.saturating_mul(10) >= before.max(now).unsigned_abs()
}

/// An age that does not change with each look at it.
fn rounded(seconds: u64) -> u64 {
    let unit = match seconds {
        0..120 => 10,
        120..7200 => 60,
        _ => 3600,
    };
    // Below ten seconds an exact age says more than none.
    if seconds < unit { seconds } else { seconds - seconds % unit }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use millrace_config::status::Lag as Reported;
    use serde_json::json;

    use super::*;

    fn report(pending: Option<u64>, in_flight: u64, is_share: bool) -> StatusReport {
        let lag = Reported {
            pending,
            in_flight,
            oldest_seconds: Some(in_flight),
            is_share,
            partitions: is_share.then_some(2),
            dead_letters: Some(3),
            last_dead_letter: None,
        };
        let json =
            json!({"version": "0", "phase": "Running", "deliveryGuarantee": "AtLeastOnce", "lag": lag, "totals": {}});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn shares_add_up_and_a_lag_that_all_see_counts_once() {
        let common = [report(Some(7), 1, false), report(Some(9), 2, false), report(None, 0, false)];
        let figures = add_up(common.iter().map(Some).chain([None])).unwrap();
        assert_eq!((figures.pending, figures.in_flight, figures.oldest_seconds), (Some(9), 3, Some(2)));
        assert_eq!(figures.dead_letters, Some(3));

        let shares = [report(Some(7), 1, true), report(Some(9), 2, true)];
        let together = add_up(shares.iter().map(Some)).unwrap();
        assert_eq!((together.pending, together.partitions), (Some(16), Some(4)));
        assert_eq!(add_up(shares.iter().map(Some).chain([None])).unwrap().pending, None, "a share is missing");
        let unknown = [report(Some(7), 1, true), report(None, 2, true)];
        assert_eq!(add_up(unknown.iter().map(Some)).unwrap().pending, None);
        assert_eq!(add_up([None, None]), None);

        let mut forming = [report(Some(0), 0, true), report(Some(0), 0, true)];
        for report in &mut forming {
            report.lag.partitions = Some(0);
        }
        assert_eq!(add_up(forming.iter().map(Some)).unwrap().pending, None, "nobody has a partition yet");
        forming[0].lag.partitions = Some(4);
        assert_eq!(add_up(forming.iter().map(Some)).unwrap().pending, Some(0), "one has none to look at");
    }

    #[test]
    fn a_lag_that_moves_is_written_now_and_then_and_one_that_stays_never() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let lag = |pending, in_flight, oldest, after| {
            let figures =
                Figures { pending: Some(pending), in_flight, oldest_seconds: Some(oldest), ..Figures::default() };
            figures.told(start + SignedDuration::from_secs(after)).0
        };
        let before = lag(100, 5, 3, 0);
        let none = DeadLetters::default();
        let writes = |lag: Lag| is_worth_a_write((&before, &none), (&lag, &none));

        assert!(!writes(lag(100, 5, 3, 100_000)));
        assert!(!writes(lag(0, 5, 3, 29)) && writes(lag(0, 5, 3, 30)));
        assert!(!writes(lag(105, 4, 3, 299)) && writes(lag(105, 4, 3, 300)));
        assert!(writes(lag(120, 5, 3, 30)));
        assert!(writes(lag(100, 5, 75, 30)) && !writes(lag(100, 5, 15, 30)));
    }

    #[test]
    fn an_age_is_rounded_down_to_what_a_person_reads_from_it() {
        for (seconds, told) in
            [(0, 0), (9, 9), (19, 10), (119, 110), (121, 120), (3599, 3540), (7300, 7200), (90_000, 90_000)]
        {
            assert_eq!(rounded(seconds), told, "{seconds}");
        }
    }
}
