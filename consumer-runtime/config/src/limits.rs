//! The bounds of the runtime's queues, waits and retries.

use serde::{Deserialize, Serialize};

/// Bounds of the runtime's queues, waits and retries. The operator renders the defaults; nothing else sets them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Most deliveries taken and not yet settled. Fewer are taken when handlers are slow: what cannot start within half
    /// a second is left at the broker, on JetStream for other replicas.
    pub in_flight_messages: u32,

    /// Most bytes of deliveries taken and not yet settled. One delivery is always allowed, whatever its size. On Kafka half
    /// of it is for what the client fetches ahead; of each partition that may be one message, whatever its size. On NATS
    /// core half of it is for what has come and waits; what comes beyond that is lost, and counted.
    pub in_flight_bytes: u32,

    /// Largest payload in bytes that is handed to a handler. Larger ones become dead letters with the reason
    /// `TooLarge`.
    pub payload_bytes: u32,

    /// Seconds for which a finished effect is recorded again and again while the store does not answer. Fetching stops
    /// meanwhile. After that the delivery is left unsettled and counted as a possible duplicate.
    pub record_seconds: u32,

    /// Milliseconds that one request to broker or store may take.
    pub request_milliseconds: u32,

    /// Longest pause in milliseconds between two attempts to reach a broker or store that does not answer.
    pub reconnect_milliseconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_messages: 4_000,
            in_flight_bytes: 16 * 1024 * 1024,
            payload_bytes: 8 * 1024 * 1024,
            record_seconds: 300,
            request_milliseconds: 5000,
            reconnect_milliseconds: 1000,
        }
    }
}
