//! What `/status` of a runtime says, and what the operator makes conditions of.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Broker, Idempotency, IdempotencyMode, replay::ReplayReport};

/// The report that `/status` gives as JSON.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// Version of the runtime.
    pub version: String,
    /// What this process does now.
    pub phase: Phase,
    /// What broker, store and handler together promise.
    pub delivery_guarantee: DeliveryGuarantee,
    /// Everything that keeps this process from handling events. Empty when it works.
    #[serde(default)]
    pub problems: Vec<StatusProblem>,
    /// What weakens the promise while everything works.
    #[serde(default)]
    pub notes: Vec<StatusNote>,
    /// What waits and what is at work.
    pub lag: Lag,
    /// Totals since the process started.
    pub totals: Totals,
    /// Aggregates of the `analytics` handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analytics: Option<AnalyticsReport>,
    /// How far a redrive is; absent where the process is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayReport>,
}

/// What a runtime process does now.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Phase {
    /// It connects to its broker, store and handler.
    Starting,
    /// It takes events.
    Running,
    /// It is connected and takes no events, as `runState: Paused` asks for.
    Paused,
    /// It finishes what it has taken, and takes no more.
    Draining,
}

/// What broker, store and handler together promise.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DeliveryGuarantee {
    /// What the broker drops is gone.
    AtMostOnce,
    /// Nothing is lost; duplicates are possible, only in a counted crash window where events are claimed.
    AtLeastOnce,
    /// Nothing is lost, and each effect happens once for each event id within `idempotency.retentionSeconds`: the effect
    /// and the record of it are one transaction.
    EffectivelyOnce,
}

impl DeliveryGuarantee {
    /// What this broker and this way of recognising a repeated event together promise.
    pub fn of(broker: &Broker, idempotency: &Idempotency) -> Self {
        match (&broker.nats, idempotency.mode) {
            (Some(_), _) => Self::AtMostOnce,
            (None, IdempotencyMode::Transactional) => Self::EffectivelyOnce,
            (None, IdempotencyMode::None | IdempotencyMode::Claim) => Self::AtLeastOnce,
        }
    }
}

/// One thing that keeps a process from handling events.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusProblem {
    /// The part that does not work.
    pub part: Part,
    /// Stable name of what is wrong.
    pub reason: ProblemReason,
    /// What is wrong and what to do, for a person.
    pub message: String,
}

/// One thing that weakens the promise. Shown as the condition `DurabilityDegraded`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusNote {
    /// Stable name of what it is.
    pub reason: NoteReason,
    /// What may happen and what to do, for a person.
    pub message: String,
}

/// What weakens the promise. A condition's reason: stable.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum NoteReason {
    /// Done events are forgotten while the broker may still deliver them.
    RetentionTooShort,
    /// The store may lose what it has confirmed.
    StoreNotDurable,
}

impl NoteReason {
    /// The reason as it stands in a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RetentionTooShort => "RetentionTooShort",
            Self::StoreNotDurable => "StoreNotDurable",
        }
    }
}

/// A part that a consumer needs. Each has a condition of its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Part {
    /// Shown as the condition `BrokerReady`.
    Broker,
    /// Shown as the condition `StoreReady`.
    Store,
    /// Shown as the condition `HandlerReady`.
    Handler,
    /// Shown as the condition `CircuitOpen`.
    Circuit,
    /// Shown in `Ready` and `Stalled`.
    Intake,
}

/// Why a part does not work. A condition's reason: stable.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum ProblemReason {
    /// The connection is being made for the first time.
    Connecting,
    /// No server answers at the given address.
    Unreachable,
    /// The server refuses the credentials, or they do not allow what is asked.
    Unauthorized,
    /// The Secret does not exist, or lacks a key.
    SecretMissing,
    /// The Secret is there, and what it holds cannot be used.
    SecretInvalid,
    /// The two sides do not trust each other's certificates.
    TlsFailed,
    /// The handler may not call the address that it is given.
    AddressNotAllowed,
    /// The stream does not exist.
    StreamNotFound,
    /// A Kafka topic does not exist: one that is consumed, or that of dead letters.
    TopicNotFound,
    /// No stream covers the dead-letter subject.
    DeadLetterStreamNotFound,
    /// The durable exists with settings that cannot be changed, or was deleted.
    DurableConflict,
    /// The bucket exists with settings that do not fit.
    BucketConflict,
    /// The server lacks something that is asked of it: it is too old.
    Unsupported,
    /// Tables of the database are not what this release knows.
    SchemaConflict,
    /// The store forgets claims in its everyday work.
    StoreUnsafe,
    /// The server answers with an error.
    Failing,
    /// The handler fails for every event.
    CircuitOpen,
    /// An event was given up with `delivery.onExhausted: Pause`.
    Paused,
}

impl ProblemReason {
    /// The reason as it stands in a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "Connecting",
            Self::Unreachable => "Unreachable",
            Self::Unauthorized => "Unauthorized",
            Self::SecretMissing => "SecretMissing",
            Self::SecretInvalid => "SecretInvalid",
            Self::TlsFailed => "TlsFailed",
            Self::AddressNotAllowed => "AddressNotAllowed",
            Self::StreamNotFound => "StreamNotFound",
            Self::TopicNotFound => "TopicNotFound",
            Self::DeadLetterStreamNotFound => "DeadLetterStreamNotFound",
            Self::DurableConflict => "DurableConflict",
            Self::BucketConflict => "BucketConflict",
            Self::Unsupported => "Unsupported",
            Self::SchemaConflict => "SchemaConflict",
            Self::StoreUnsafe => "StoreUnsafe",
            Self::Failing => "Failing",
            Self::CircuitOpen => "CircuitOpen",
            Self::Paused => "Paused",
        }
    }

    /// Whether waiting cannot help: somebody must change the object, its Secret or the broker's set-up.
    pub fn needs_change(self) -> bool {
        match self {
            Self::Connecting | Self::Unreachable | Self::Failing | Self::CircuitOpen => false,
            Self::Unauthorized
            | Self::SecretMissing
            | Self::SecretInvalid
            | Self::TlsFailed
            | Self::AddressNotAllowed
            | Self::StreamNotFound
            | Self::TopicNotFound
            | Self::DeadLetterStreamNotFound
            | Self::DurableConflict
            | Self::BucketConflict
            | Self::Unsupported
            | Self::SchemaConflict
            | Self::StoreUnsafe
            | Self::Paused => true,
        }
    }
}

/// What waits and what is at work.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Events in the stream that no replica has taken yet; absent while unknown, and always with NATS core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// Deliveries taken by this process and not yet settled.
    pub in_flight: u64,
    /// Age in whole seconds of the oldest of them, by the broker's time of publication; absent below one second, and where
    /// the broker does not say when an event was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
    /// Whether `pending` is of this process's own share, so that the shares add up (Kafka), and not of all replicas.
    #[serde(default)]
    pub is_share: bool,
    /// Partitions that this process holds (Kafka); absent while unknown, and with other brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// Dead letters that wait on the dead-letter subject; absent while unknown, and with brokers that do not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<u64>,
    /// When the last of them came there, by the broker's clock; absent like `deadLetters`, and when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_dead_letter: Option<Timestamp>,
}

/// Totals since a process started.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// Deliveries taken from the broker.
    pub deliveries: u64,
    /// Deliveries that the broker had made before.
    pub redeliveries: u64,
    /// Events whose handler succeeded.
    pub handled: u64,
    /// Deliveries of events that were done already.
    pub duplicates_skipped: u64,
    /// Deliveries of types that this consumer leaves alone.
    pub ignored: u64,
    /// Attempts that failed and will be repeated.
    pub retries: u64,
    /// Dead letters confirmed by the broker.
    pub dead_letters: u64,
    /// Events given up with `delivery.onExhausted: Drop`.
    pub dropped: u64,
    /// Attempts after one whose effect may have happened: the crash window.
    pub possible_duplicates: u64,
    /// Records refused because somebody else had taken the claim over.
    pub fenced: u64,
}

/// Aggregates of the `analytics` handler. Money is an exact decimal, as a string.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnalyticsReport {
    /// Sum of the total amounts of all orders placed.
    pub total_revenue: String,
    /// Orders placed.
    pub orders: u64,
    /// Orders shipped.
    pub shipments: u64,
    /// Customers with at least one order; in memory the first 100,000 are counted.
    pub customers: u64,
    /// Orders of these customers divided by their number, rounded to hundredths.
    pub orders_per_customer: String,
    /// Most orders of one customer.
    pub orders_per_customer_max: u64,
    /// `total_revenue` divided by `orders`, rounded to cents.
    pub average_order_value: String,
    /// Payments that succeeded.
    pub payments_succeeded: u64,
    /// Payments that failed.
    pub payments_failed: u64,
    /// Share of payments that succeeded, in percent with one decimal.
    pub payment_success_percent: String,
    /// Sum of successful payments by payment method; beyond 100 methods, the sum of all others under `other`.
    pub amount_by_payment_method: std::collections::BTreeMap<String, String>,
    /// Events handled whose processing time is in the next two figures.
    pub processed: u64,
    /// Mean time from when an event happened until it was handled, in milliseconds, rounded down.
    pub processing_milliseconds_mean: u64,
    /// The longest such time.
    pub processing_milliseconds_max: u64,
    /// Items sold by product; beyond 1,000 products, the sum of all others under `other`.
    pub quantity_by_product: std::collections::BTreeMap<String, u64>,
}
