//! How long a record is kept, for the stores that forget record by record.

use std::time::Duration;

use jiff::Timestamp;
use millrace_core::claim::{Record, State};

/// How long a record that is written now is kept: for the retention. A claim lives on for the retention after its end, so
/// that its attempts are not forgotten before it can be taken over.
pub(crate) fn lifetime(record: &Record, retention: Duration, now: Timestamp) -> Duration {
    match record.state {
        State::Claimed { until } if until > now => retention.saturating_add(until.duration_since(now).unsigned_abs()),
        State::Claimed { .. } | State::Released | State::Done | State::Dead => retention,
    }
}
