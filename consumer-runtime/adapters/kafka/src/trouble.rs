//! What the errors of the client library come to.

use std::sync::{Mutex, PoisonError};

use millrace_core::health::{Trouble, TroubleReason};
use rdkafka::{
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};
use tracing::{debug, warn};

use crate::client::ConnectionOptions;

/// Longest text of the library that is kept, in bytes.
const SAID_MAX_BYTES: usize = 300;

/// What the library last said of a connection that failed. Its error codes alone do not say which and why.
#[derive(Debug, Default)]
pub(crate) struct LastFailure(Mutex<Option<Failure>>);

#[derive(Clone, Debug)]
struct Failure {
    reason: TroubleReason,
    said: String,
}

impl LastFailure {
    /// Takes in a line of the library's log.
    pub(crate) fn log(&self, level: RDKafkaLogLevel, facility: &str, said: &str) {
        if facility == "FAIL" {
            self.note(reason_in(said), said);
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                warn!(facility, said, "kafka");
            }
            RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
            | RDKafkaLogLevel::Notice
            | RDKafkaLogLevel::Info
            | RDKafkaLogLevel::Debug => debug!(facility, said, "kafka"),
        }
    }

    /// Takes in an error of the library.
    pub(crate) fn error(&self, error: &KafkaError, said: &str) {
        let reason = error.rdkafka_error_code().and_then(reason);
        self.note(reason.unwrap_or_else(|| reason_in(said)), said);
    }

    fn note(&self, reason: TroubleReason, said: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers are down" follows on what says why.
        let tells_less =
            reason == TroubleReason::Unreachable && last.as_ref().is_some_and(|last| last.reason != reason);
        if !tells_less {
            // The library names its thread and the address first.
            let mut said = said.split_once("]: ").map_or(said, |(_, said)| said).to_owned();
            said.truncate(said.floor_char_boundary(SAID_MAX_BYTES));
            *last = Some(Failure { reason, said });
        }
    }

    /// Whether the brokers answer, and refuse this side or are refused by it.
    pub(crate) fn is_refusal(&self) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().is_some_and(|last| last.reason != TroubleReason::Unreachable)
    }

    /// All is well again.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The trouble that a request which got no answer stands for.
    pub(crate) fn trouble(&self, options: &ConnectionOptions, error: &KafkaError) -> Trouble {
        let servers = options.bootstrap_servers.join(", ");
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let by_code =
            error.rdkafka_error_code().and_then(reason).filter(|reason| *reason != TroubleReason::Unreachable);
        let (reason, said) = match (by_code, last) {
            (Some(reason), _) => (reason, error.to_string()),
            (None, Some(Failure { reason, said })) => (reason, said),
            (None, None) => (TroubleReason::Unreachable, error.to_string()),
        };
        let message = match reason {
            TroubleReason::Unauthorized => match &options.auth {
                Some(auth) => format!(
                    "{servers} refuses secret {:?} by {} ({said}); correct the Secret, mechanism or access rights",
                    auth.secret.name,
                    auth.mechanism.as_str()
                ),
                None => format!("{servers} refuses an anonymous connection ({said}); set broker.kafka.authSecretRef"),
            },
            TroubleReason::TlsFailed => format!(
                "TLS with {servers} fails ({said}); check broker.kafka.tls, its Secrets, and the brokers' certificates"
            ),
            TroubleReason::Unreachable => {
                format!("no Kafka broker answers at {servers} ({said}); check bootstrapServers and the network")
            }
            _ => format!("{servers}: {said}"),
        };
        Trouble::new(reason, message)
    }
}

/// The reason that an error code stands for, where it stands for one.
pub(crate) fn reason(code: RDKafkaErrorCode) -> Option<TroubleReason> {
    match code {
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::UnsupportedSASLMechanism
        | RDKafkaErrorCode::IllegalSASLState
        | RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => Some(TroubleReason::Unauthorized),
        RDKafkaErrorCode::SSL => Some(TroubleReason::TlsFailed),
        RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::InvalidTopic => {
            Some(TroubleReason::TopicNotFound)
        }
        RDKafkaErrorCode::BrokerTransportFailure
        | RDKafkaErrorCode::AllBrokersDown
        | RDKafkaErrorCode::Resolve
        | RDKafkaErrorCode::OperationTimedOut => Some(TroubleReason::Unreachable),
        _ => None,
    }
}

/// The reason that a text of the library stands for.
fn reason_in(said: &str) -> TroubleReason {
    let said = said.to_ascii_lowercase();
    if said.contains("ssl handshake failed") || said.contains("certificate") {
        TroubleReason::TlsFailed
    } else if said.contains("sasl") || said.contains("authentication") {
        TroubleReason::Unauthorized
    } else {
        TroubleReason::Unreachable
    }
}
