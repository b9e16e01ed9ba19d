//! How long a broker keeps an event that is handled.

use std::time::Duration;

/// How long a broker keeps an event that is handled, and may so deliver it again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kept {
    /// It goes with its acknowledgement.
    UntilAcked,
    /// For this long after it was published.
    For(Duration),
    /// Until there is no room for it.
    Forever,
}
