//! What became of an attempt.

use std::time::Duration;

use millrace_events::Reason;

/// What became of an attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The effect happened.
    Done,
    /// The event needs none, so nobody was asked for one.
    NotNeeded,
    /// The handler did not succeed.
    Failed(Failure),
    /// The claim was taken over while the handler was at work, and what it did was rolled back.
    Fenced,
}

/// Why an attempt failed, and what that means for the next one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Whether trying again can help.
    pub class: FailureClass,
    /// Whether the effect may have happened all the same.
    pub effect: Effect,
    /// What went wrong, for a person. It goes into logs and the dead letter, so it must hold no secret and no data of
    /// the event.
    pub error: String,
    /// The delay that the other side asked for.
    pub retry_after: Option<Duration>,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureClass {
    /// It can: a time-out, a connection refused, a server that is busy.
    Retryable,
    /// It cannot: the same event will fail in the same way.
    Permanent(Reason),
}

/// Whether the effect of a failed attempt may have happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It did not.
    None,
    /// It may have: the attempt was cut between asking for it and hearing the answer.
    Possible,
}

impl Outcome {
    /// A failure that another attempt may heal, and that had no effect.
    pub fn retryable(error: impl Into<String>) -> Self {
        Self::failed(FailureClass::Retryable, Effect::None, error)
    }

    /// A failure that another attempt may heal, after which the effect may have happened.
    pub fn ambiguous(error: impl Into<String>) -> Self {
        Self::failed(FailureClass::Retryable, Effect::Possible, error)
    }

    /// A failure that no other attempt can heal.
    pub fn permanent(reason: Reason, error: impl Into<String>) -> Self {
        Self::failed(FailureClass::Permanent(reason), Effect::None, error)
    }

    /// Whether it is a failure that another attempt may heal.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Failed(Failure { class: FailureClass::Retryable, .. }))
    }

    /// What went wrong, for a person; nothing where nothing did.
    pub fn error(&self) -> &str {
        match self {
            Self::Done | Self::NotNeeded => "",
            Self::Fenced => "the claim was taken over",
            Self::Failed(failure) => &failure.error,
        }
    }

    fn failed(class: FailureClass, effect: Effect, error: impl Into<String>) -> Self {
        Self::Failed(Failure { class, effect, error: error.into(), retry_after: None })
    }
}
