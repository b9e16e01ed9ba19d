//! What can go wrong in a reconcile.

use millrace_config::{Problem, problem};

/// What can go wrong in a reconcile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server does not do what it is asked.
    #[error("failed to {operation}: {source}")]
    Api {
        /// What was asked.
        operation: &'static str,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server does not answer.
    #[error("failed to {0}: no answer in time")]
    TimedOut(&'static str),
    /// A child's name is taken by an object of somebody else.
    #[error("{kind} {name:?} exists and does not belong to this EventConsumer; delete or rename it")]
    NotOurs {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The spec breaks rules. Nothing is touched until it changes.
    #[error("{}", problem::list(.0))]
    Invalid(Vec<Problem>),
    /// An object cannot be written as JSON or YAML, or read.
    #[error("failed to convert: {0}")]
    Json(#[from] serde_json::Error),
    /// YAML that cannot be read or written.
    #[error("failed to read or write YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// A file or socket that cannot be used.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// A closed set of names, for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 403 => "forbidden",
                kube::Error::Api(status) if status.code == 409 => "conflict",
                kube::Error::Api(_) => "api",
                _ => "transport",
            },
            Self::TimedOut(_) => "timeout",
            Self::NotOurs { .. } => "not_ours",
            Self::Invalid(_) => "invalid",
            Self::Json(_) | Self::Yaml(_) | Self::Io(_) => "internal",
        }
    }

    /// Whether trying again can help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api { .. } | Self::TimedOut(_) | Self::Io(_) => true,
            Self::NotOurs { .. } | Self::Invalid(_) | Self::Json(_) | Self::Yaml(_) => false,
        }
    }
}
