//! Attempts, the delays between them, and what happens when they are used up.

use serde::{Deserialize, Serialize};

use crate::defaults;

/// How often and how patiently an event is handled, and where it goes when that was not enough.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Delivery {
    /// Seconds that one attempt may take. An attempt that takes longer is cut and counts as failed; its effect may have
    /// happened, so it is counted in `millrace_possible_duplicates_total`. At most `drainTimeoutSeconds`.
    #[serde(default = "defaults::attempt_timeout_seconds")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 3600)))]
    pub attempt_timeout_seconds: u32,

    /// Attempts that an event gets, the first included. An attempt that ends with the death of the process counts.
    /// When all have failed, the event is given up with the reason `RetriesExhausted`. An event that can never succeed
    /// (it cannot be decoded, the handler refuses it) is given up at its first attempt.
    #[serde(default = "defaults::max_attempts")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub max_attempts: u32,

    /// Seconds after its publication from which an event is not tried any more, though it has attempts left: it is given
    /// up with the reason `Expired`. Without it, age does not matter. Needs `broker.jetStream` or `broker.kafka`: NATS core
    /// does not say when an event was published. The clocks of server and pods are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 31_536_000)))]
    pub max_age_seconds: Option<u32>,

    /// What becomes of an event that is given up. `DeadLetter` publishes it to `deadLetter`. `Pause` keeps it in its
    /// stream and takes nothing more until the pods are restarted, which gives it all its attempts again: `Stalled` says
    /// which event and why; needs `broker.kafka`, or `broker.jetStream` and claims in a store other than `memory`. `Drop` settles it: a line in the log
    /// and `millrace_dropped_total` are all that is left of it.
    #[serde(default)]
    pub on_exhausted: OnExhausted,

    /// The most attempts that each replica starts in a second. Without it nothing limits them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,

    /// Stops fetching while the handler fails for every event. Without it, events are fetched and their attempts spent
    /// for as long as the handler itself does not say that it cannot work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,

    /// The delay before the next attempt.
    #[serde(default)]
    pub backoff: Backoff,

    /// Where dead letters go: with `onExhausted: DeadLetter`, and only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
}

/// What becomes of an event that is given up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum OnExhausted {
    /// It is published as a dead letter.
    #[default]
    DeadLetter,
    /// It stays, and nothing more is taken.
    Pause,
    /// It is gone.
    Drop,
}

/// Exponential backoff: the delay doubles with each failed attempt.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Backoff {
    /// Milliseconds before the second attempt.
    #[serde(default = "defaults::backoff_initial_milliseconds")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 3_600_000)))]
    pub initial_milliseconds: u32,

    /// Upper bound of the delay in seconds.
    #[serde(default = "defaults::backoff_max_seconds")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 3600)))]
    pub max_seconds: u32,

    /// Percentage by which a delay is randomly shortened or lengthened, so that events which failed together do not
    /// come back together.
    #[serde(default = "defaults::backoff_jitter_percent")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100)))]
    pub jitter_percent: u8,
}

/// A token bucket: protects what the handler calls. It counts attempts, repeated ones too; an event that is skipped
/// because it is done already costs nothing. Each replica has a bucket of its own, full when the pod starts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Attempts in a second, for each replica.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub events_per_second: u32,

    /// Attempts that may start at once after a pause. Default: `eventsPerSecond`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub burst: Option<u32>,
}

/// A circuit breaker. Open, it stops fetching; an attempt that fails at an open circuit is not counted in `maxAttempts`.
/// After `openSeconds` one event at a time tries again: a success closes the circuit, a failure opens it again. Refusals
/// for good say nothing of the handler and do not count. Each replica has one of its own. Where no claim is kept
/// (`idempotency.mode: None`, or the store `memory`) JetStream's count of deliveries stands for the attempts, and that
/// goes on.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// The circuit opens when this many different events have failed with no success in between. An event that fails
    /// alone counts once, and becomes a dead letter in time.
    #[serde(default = "defaults::circuit_consecutive_failures")]
    #[cfg_attr(feature = "schema", schemars(range(min = 2, max = 1000)))]
    pub consecutive_failures: u32,

    /// Seconds that it stays open before an event may try again.
    #[serde(default = "defaults::circuit_open_seconds")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 3600)))]
    pub open_seconds: u32,
}

/// The subject that dead letters are published to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Subject, without wildcards, for example `dlq.order-emails`. With `jetStream` a stream must cover it: a dead
    /// letter is confirmed by the broker before its original is settled. It must not match `subjects`.
    /// With `kafka` it is a topic, which must exist; its records have the key of the original.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 255), regex(pattern = r"^[^\s.*>]+(\.[^\s.*>]+)*$"))
    )]
    pub subject: String,

    /// Largest dead letter in bytes, headers included; the server's `max_payload` or the topic's
    /// `max.message.bytes` must allow it. The body of a larger
    /// one is left in its stream or topic: the dead letter says where it is and carries its SHA-256. A stream that deletes what is
    /// acked (retention `workqueue` or `interest`) cannot keep it: there the event is put off until the dead letter fits.
    #[serde(default = "defaults::dead_letter_max_payload_bytes")]
    #[cfg_attr(feature = "schema", schemars(range(min = 4096, max = 67_108_864)))]
    pub max_payload_bytes: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial_milliseconds: defaults::backoff_initial_milliseconds(),
            max_seconds: defaults::backoff_max_seconds(),
            jitter_percent: defaults::backoff_jitter_percent(),
        }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            consecutive_failures: defaults::circuit_consecutive_failures(),
            open_seconds: defaults::circuit_open_seconds(),
        }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            attempt_timeout_seconds: defaults::attempt_timeout_seconds(),
            max_attempts: defaults::max_attempts(),
            max_age_seconds: None,
            on_exhausted: OnExhausted::default(),
            rate_limit: None,
            circuit_breaker: None,
            backoff: Backoff::default(),
            dead_letter: None,
        }
    }
}
