//! What a failure of PostgreSQL means: whether the same event will fail again, and what may be said of it.

use std::time::Duration;

use deadpool::managed::{PoolError, TimeoutType};
use millrace_core::{
    health::{Trouble, TroubleReason},
    ports::StoreError,
};
use tokio_postgres::error::SqlState;

/// Most characters kept of what a server says.
const TEXT_MAX: usize = 300;

/// Something that PostgreSQL did not do.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection can be made.
    #[error(transparent)]
    Connect(Trouble),
    /// Every connection of the pool is at work, and none became free in time.
    #[error("all {0} connections to PostgreSQL are at work")]
    Exhausted(usize),
    /// There was no answer in time.
    #[error("PostgreSQL did not answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// It refused, or the connection broke.
    #[error("{}", text(.0))]
    Said(#[from] tokio_postgres::Error),
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Not with the same data.
    Permanent,
    /// At once: another transaction was in the way, and this one was rolled back.
    Repeat,
    /// Later: the server, the connection or its set-up is at fault and no event.
    Later,
}

impl DatabaseError {
    /// Whether trying again can help.
    pub fn class(&self) -> Class {
        match self {
            Self::Said(error) => error.code().map_or(Class::Later, |code| class(code.code())),
            Self::Connect(_) | Self::Exhausted(_) | Self::Slow(_) => Class::Later,
        }
    }

    /// What it says of the database.
    pub fn trouble(&self) -> Trouble {
        let reason = match self {
            Self::Connect(trouble) => return trouble.clone(),
            Self::Exhausted(_) => TroubleReason::Failing,
            Self::Slow(_) => TroubleReason::Unreachable,
            Self::Said(error) => reason(error.code()),
        };
        Trouble::new(reason, self.to_string())
    }

    pub(crate) fn from_pool(error: PoolError<Trouble>, size: usize, patience: Duration) -> Self {
        match error {
            PoolError::Backend(trouble) => Self::Connect(trouble),
            PoolError::Timeout(TimeoutType::Wait) => Self::Exhausted(size),
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_) => Self::Slow(patience),
        }
    }
}

impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Data errors and limits of the program are the event's own fault; conflicts between transactions are nobody's. All
/// else, a missing right or table too, is the same for every event.
fn class(code: &str) -> Class {
    match code.get(..2) {
        Some("22" | "23" | "54") => Class::Permanent,
        Some("40") => Class::Repeat,
        _ => Class::Later,
    }
}

fn reason(code: Option<&SqlState>) -> TroubleReason {
    let Some(code) = code else { return TroubleReason::Unreachable };
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        return TroubleReason::Unauthorized;
    }
    match code.code().get(..2) {
        Some("42" | "3F") => TroubleReason::SchemaConflict,
        Some("57" | "08") => TroubleReason::Unreachable,
        _ => TroubleReason::Failing,
    }
}

/// What may be said of an error. Of data errors only the code: their words repeat the data.
fn text(error: &tokio_postgres::Error) -> String {
    let Some(code) = error.code() else {
        return format!("the connection to PostgreSQL broke: {error}").chars().take(TEXT_MAX).collect();
    };
    match (code.code().get(..2), error.as_db_error()) {
        (Some("08" | "25" | "28" | "3D" | "3F" | "40" | "42" | "53" | "55" | "57" | "58" | "XX"), Some(said)) => {
            let text = format!("PostgreSQL says: {} (SQLSTATE {})", said.message(), code.code());
            text.chars().take(TEXT_MAX).collect()
        }
        _ => format!("PostgreSQL refuses the data (SQLSTATE {})", code.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_errors_are_permanent_conflicts_are_repeated_and_all_else_may_heal() {
        for (code, expected) in [
            ("22003", Class::Permanent),
            ("22021", Class::Permanent),
            ("23514", Class::Permanent),
            ("54000", Class::Permanent),
            ("40001", Class::Repeat),
            ("40P01", Class::Repeat),
            ("08006", Class::Later),
            ("25006", Class::Later),
            ("42501", Class::Later),
            ("53300", Class::Later),
            ("55P03", Class::Later),
            ("57P01", Class::Later),
        ] {
            assert_eq!(class(code), expected, "{code}");
        }
    }
}
