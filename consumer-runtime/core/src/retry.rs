//! How many attempts an event gets.

use crate::backoff::Backoff;

/// How many attempts an event gets, and how they are spaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryPolicy {
    /// Attempts, the first included; at least 1.
    pub max_attempts: u32,
    /// The delays between them.
    pub backoff: Backoff,
}

impl RetryPolicy {
    /// Whether attempt number `attempt` may start. The first is 1.
    ///
    /// Attempts are counted before the handler runs, so an event that kills its process gets here with a number past
    /// the limit and is given up without another try.
    pub fn allows(&self, attempt: u32) -> bool {
        attempt <= self.max_attempts
    }

    /// Whether another attempt may follow attempt number `attempt`.
    pub fn allows_after(&self, attempt: u32) -> bool {
        attempt < self.max_attempts
    }
}
