//! The defaults, each in one place. The CRD's schema carries the same values because it calls the same functions.

/// Whether a value is left out of a configuration, so that one of a release that does not know the field stays the same.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(crate) fn ack_wait_seconds() -> u32 {
    30
}

/// Enough for a handler that waits on a network, and small enough that a pod with default limits stays small.
pub(crate) fn workers() -> u32 {
    16
}

pub(crate) fn retention_seconds() -> u32 {
    7 * 24 * 3600
}

pub(crate) fn bucket() -> String {
    "millrace-idempotency".to_owned()
}

pub(crate) fn bucket_replicas() -> u8 {
    1
}

pub(crate) fn memory_max_entries() -> u32 {
    100_000
}

pub(crate) fn attempt_timeout_seconds() -> u32 {
    20
}

pub(crate) fn max_attempts() -> u32 {
    5
}

pub(crate) fn circuit_consecutive_failures() -> u32 {
    10
}

pub(crate) fn circuit_open_seconds() -> u32 {
    30
}

pub(crate) fn backoff_initial_milliseconds() -> u32 {
    500
}

pub(crate) fn backoff_max_seconds() -> u32 {
    60
}

pub(crate) fn backoff_jitter_percent() -> u8 {
    20
}

/// The default `max_payload` of a NATS server.
pub(crate) fn dead_letter_max_payload_bytes() -> u32 {
    1_048_576
}

pub(crate) fn service_path() -> String {
    "/".to_owned()
}

pub(crate) fn drain_timeout_seconds() -> u32 {
    30
}
