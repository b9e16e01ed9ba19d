//! `DeadLetterReplay`: dead letters that are to be put back, and what became of them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use millrace_events::Reason;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Puts dead letters of an `EventConsumer` back, once. It is run by a Job of the same name with `-replay` behind it, which has
/// the Secrets of the consumer and goes on where it was when its pod dies. It runs to its end whatever the `runState` of the
/// consumer is. What it did stays to be read until it is deleted, and the Job, with the log, goes with it.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "DeadLetterReplay",
    namespaced,
    shortname = "dlr",
    category = "millrace",
    doc = "Puts dead letters of an EventConsumer back, once.",
    derive = "PartialEq",
    status = "DeadLetterReplayStatus",
    selectable = ".spec.consumerRef.name",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Consumer", type_ = "string", json_path = ".spec.consumerRef.name"),
    printcolumn(name = "Matched", type_ = "integer", json_path = ".status.matched"),
    printcolumn(name = "Succeeded", type_ = "integer", json_path = ".status.succeeded"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.failed"),
    printcolumn(name = "Parked", type_ = "integer", json_path = ".status.parked"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Target", type_ = "string", priority = 1, json_path = ".spec.target"),
    printcolumn(name = "Dry-Run", type_ = "string", priority = 1, json_path = ".spec.dryRun"),
    printcolumn(name = "Job", type_ = "string", priority = 1, json_path = ".status.job"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 50 characters: it names the Job")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf")
        .message("spec cannot be changed: a replay is carried out once; create another DeadLetterReplay"),
    validation = Rule::new("!has(self.filter.fromTime) || !has(self.filter.toTime) || self.filter.fromTime < self.filter.toTime")
        .message("filter.fromTime must be before filter.toTime"),
)]
pub struct DeadLetterReplaySpec {
    /// The `EventConsumer`, in the same namespace, whose dead letters are put back. It needs `broker.jetStream` or
    /// `broker.kafka`, and `delivery.deadLetter`.
    pub consumer_ref: ConsumerRef,

    /// Which of its dead letters. Empty: all that failed last before this object was created.
    #[serde(default)]
    pub filter: ReplayFilter,

    /// Where they go. `Handler`: to the handler of the consumer, in the pod of the Job, as any event, with claims and attempts; a
    /// letter is taken out when its event is handled, or has failed again and has a new dead letter. `Source`: to the subject
    /// or topic that they came from, where all its consumers see the message again and those that have handled it skip it; a
    /// letter is taken out when the broker has confirmed its message. `Handler` is not possible with
    /// `idempotency.store.embedded`, whose file the consumer has open.
    #[serde(default)]
    pub target: ReplayTarget,

    /// Most letters put back.
    #[serde(default = "max_messages")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_messages: u32,

    /// Most letters put back in a second.
    #[serde(default = "messages_per_second")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages_per_second: u32,

    /// A letter whose event was put back so often, by this replay or earlier ones, is parked: it stays where it is.
    #[serde(default = "max_replays_per_message")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replays_per_message: u32,

    /// `All`: nothing is put back; the first 20 letters that would be are listed in the status, and all of them in the log of
    /// the Job. `None`: they are put back.
    #[serde(default)]
    pub dry_run: DryRun,
}

/// An `EventConsumer` of the same namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Which dead letters are put back: those that fit everything that is given.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplayFilter {
    /// Only letters with one of these reasons, for example `[RetriesExhausted]`. Empty: whatever the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub reasons: Vec<Reason>,

    /// Only letters of events that came on one of these subjects or topics, without wildcards. Empty: wherever from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub subjects: Vec<String>,

    /// Only letters of events that failed last at this time or later, for example `2026-01-31T12:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_time: Option<Time>,

    /// Only letters of events that failed last before this time. Default, and latest: when this object was created, so that
    /// what fails again is not put back again by the same replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_time: Option<Time>,

    /// Only letters of the events with these ids. Empty: whatever the id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 256)))]
    pub ids: Vec<String>,
}

/// Where dead letters go.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ReplayTarget {
    /// To the handler of the consumer.
    #[default]
    Handler,
    /// To the subject or topic that they came from.
    Source,
}

/// Whether anything is done.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DryRun {
    /// Letters are put back.
    #[default]
    None,
    /// Letters are listed.
    All,
}

/// What became of a `DeadLetterReplay`.
///
/// Each letter is in one of the counts, whatever was killed meanwhile: the runtime keeps a journal through restarts of its
/// container, and what every pod of the Job came to is added up here. Of a pod that is deleted the last word is awaited. Only
/// one that vanishes with its node, or while the operator is away, leaves the count of its last report; `Ready` says so then.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterReplayStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The Job that carries it out. A dry run lists every letter in its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,

    /// When the Job was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,

    /// When it ended, whether it could do everything or not. It is not run again after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,

    /// Letters that the filter is for.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub matched: i64,

    /// Letters put back, whatever came of it: `succeeded` and `failed`.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub replayed: i64,

    /// Letters whose event was handled (target `Handler`), or whose message the broker has (target `Source`).
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub succeeded: i64,

    /// Target `Handler`: letters whose event failed again; each has a new dead letter. Target `Source`: letters that could not be
    /// put back, and are where they were.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub failed: i64,

    /// Letters left where they are because they were put back `maxReplaysPerMessage` times.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub parked: i64,

    /// Letters left where they are because they cannot be read. They are not among the `matched`.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub unreadable: i64,

    /// The first letters of a dry run, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub letters: Vec<ListedLetter>,

    /// What each pod of the Job came to, in the order in which they were started. The counts are their sum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub runs: Vec<ReplayRun>,

    /// `Ready`: it has come to its end. `Reconciling`: it is on the way there. `Stalled`: it has failed, or something must be
    /// changed first.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A letter that a dry run would put back.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedLetter {
    /// The id of its event; absent where the event cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// Where it came from, for example `jetstream://ORDERS/orders.placed#42`.
    pub origin: String,
    /// How often it was put back.
    pub replays: i64,
}

/// What one pod of the Job came to.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayRun {
    /// Its name.
    pub pod: String,
    /// Letters that it found the filter to be for.
    #[serde(default)]
    pub matched: i64,
    /// Of those, succeeded.
    #[serde(default)]
    pub succeeded: i64,
    /// Of those, failed.
    #[serde(default)]
    pub failed: i64,
    /// Of those, parked.
    #[serde(default)]
    pub parked: i64,
    /// Letters that it could not read.
    #[serde(default)]
    pub unreadable: i64,
    /// Whether this is its last word. Nothing of what a pod did after it was last heard of is counted.
    #[serde(default)]
    pub is_final: bool,
}

fn max_messages() -> u32 {
    1000
}

fn messages_per_second() -> u32 {
    50
}

fn max_replays_per_message() -> u32 {
    3
}
