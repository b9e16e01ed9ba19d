//! What a call without an answer means: for the attempt, and for the receiver's health. Pure.

use millrace_core::{
    health::{Trouble, TroubleReason},
    outcome::Outcome,
};

/// Why there was no answer. The texts name the host and never the path, whose query may hold a token.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CallError {
    /// A Secret cannot be used.
    #[error(transparent)]
    Secret(#[from] Trouble),
    /// The name has no address.
    #[error("failed to look up {host}: {text}")]
    Lookup { host: String, text: String },
    /// It has none that may be called.
    #[error(
        "{host} has no address that may be called: use a public one or serviceRef, or have it allowed (--http-allow)"
    )]
    NotAllowed { host: String },
    /// Nobody takes the connection.
    #[error("failed to connect to {host}: {text}")]
    Connect { host: String, text: String },
    /// The two sides do not agree on TLS.
    #[error("failed to agree with {host} on tls: {text}")]
    Tls { host: String, text: String },
    /// The connection broke after the request may have reached the receiver.
    #[error("{host} may have received the event, and gave no answer that can be read: {text}")]
    Lost { host: String, text: String },
}

impl CallError {
    /// How the attempt ends.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Lost { .. } => Outcome::ambiguous(self.to_string()),
            // None of it says anything of the event: every other would fare the same.
            Self::Secret(_)
            | Self::Lookup { .. }
            | Self::NotAllowed { .. }
            | Self::Connect { .. }
            | Self::Tls { .. } => Outcome::retryable(self.to_string()),
        }
    }

    /// What it says of the receiver.
    pub(crate) fn trouble(&self) -> Trouble {
        let reason = match self {
            Self::Secret(trouble) => return trouble.clone(),
            Self::Lookup { .. } | Self::Connect { .. } => TroubleReason::Unreachable,
            Self::NotAllowed { .. } => TroubleReason::AddressNotAllowed,
            Self::Tls { .. } => TroubleReason::TlsFailed,
            Self::Lost { .. } => TroubleReason::Failing,
        };
        Trouble::new(reason, self.to_string())
    }
}
