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
    /// The operator may not watch what it must know.
    #[error("the operator cannot see {what}, and changes nothing until it can: {why}")]
    Blind {
        /// What it cannot see.
        what: &'static str,
        /// The answer of the API server.
        why: String,
    },
    /// What is known of the consumer is no longer so.
    #[error("the EventConsumer has been changed, deleted or made anew since it was last seen")]
    Outdated,
    /// A child's name is taken by an object of somebody else.
    #[error("{kind} {name:?} exists and does not belong to this object; delete or rename it")]
    NotOurs {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The spec breaks rules. Nothing is touched until it changes.
    #[error("{}", problem::list(.0))]
    Invalid(Vec<Problem>),
    /// The times of the election do not fit each other.
    #[error(
        "the lease cannot be used with these times: its duration must be longer than the renew deadline, and that longer than 1.2 retry periods, which are at least a second"
    )]
    Election,
    /// Another operator may write now, or may soon.
    #[error("the lease is lost: another operator goes on")]
    LeaseLost,
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
                kube::Error::Api(status) if status.code == 422 => "refused",
                kube::Error::Api(_) => "api",
                _ => "transport",
            },
            Self::TimedOut(_) => "timeout",
            Self::Blind { .. } => "forbidden",
            Self::Outdated => "conflict",
            Self::NotOurs { .. } => "not_ours",
            Self::Invalid(_) => "invalid",
            Self::LeaseLost => "lease_lost",
            Self::Election | Self::Json(_) | Self::Yaml(_) | Self::Io(_) => "internal",
        }
    }

    /// Whether trying again can help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            // What the API server finds wrong stays wrong.
            Self::Api { .. } => self.category() != "refused",
            Self::TimedOut(_) | Self::Blind { .. } | Self::Outdated | Self::LeaseLost | Self::Io(_) => true,
            Self::NotOurs { .. } | Self::Invalid(_) | Self::Election | Self::Json(_) | Self::Yaml(_) => false,
        }
    }

    /// Whether it was not an answer: the API server is away, or does not answer in time.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Api { source, .. } => {
                let answers = [matches!(**source, kube::Error::Api(_)), matches!(**source, kube::Error::SerdeError(_))];
                !answers.contains(&true)
            }
            Self::TimedOut(_) => true,
            _ => false,
        }
    }

    /// Whether what was to be written is gone, or is no longer as it was seen.
    pub fn is_not_as_expected(&self) -> bool {
        match self {
            Self::Api { source, .. } => {
                matches!(source.as_ref(), kube::Error::Api(status) if matches!(status.code, 404 | 409))
            }
            _ => false,
        }
    }

    /// Whether a watch cannot go on from where it was: the API server has forgotten that place, or tells of something that
    /// cannot be read.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.code == 410,
                kube::Error::SerdeError(_) => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// The reason of the condition `Ready` that it becomes.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "InvalidSpec",
            Self::NotOurs { .. } => "NameTaken",
            Self::Api { source, .. } if source.to_string().contains("exceeded quota") => "QuotaExceeded",
            _ if self.category() == "forbidden" => "Forbidden",
            _ => "ReconcileFailed",
        }
    }
}
