//! `EventConsumer`: what a user writes.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use millrace_config::{Broker, Delivery, Handler, Idempotency, Ordering, Pick, RunState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{network::NetworkPolicy, rules, scaling::Scaling, status::EventConsumerStatus};

/// Consumes events from a broker and handles each of them, with its effect once.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "EventConsumer",
    namespaced,
    shortname = "evc",
    category = "millrace",
    doc = "Consumes events from a broker and handles each of them, with its effect once.",
    derive = "PartialEq",
    status = "EventConsumerStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    selectable = ".spec.runState",
    selectable = ".spec.scaling.mode",
    selectable = ".status.broker",
    selectable = ".status.handler",
    selectable = ".status.deliveryGuarantee",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Broker", type_ = "string", json_path = ".status.broker"),
    printcolumn(name = "Handler", type_ = "string", json_path = ".status.handler"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag.pending"),
    printcolumn(name = "Oldest", type_ = "integer", json_path = ".status.lag.oldestSeconds"),
    printcolumn(name = "DLQ", type_ = "integer", json_path = ".status.deadLetters.pending"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Guarantee", type_ = "string", priority = 1, json_path = ".status.deliveryGuarantee"),
    printcolumn(name = "State", type_ = "string", priority = 1, json_path = ".spec.runState"),
    printcolumn(name = "Subjects", type_ = "string", priority = 1, json_path = ".spec.subjects"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 50 characters: it names the Deployment and, with the namespace, the queue group")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.broker.kafka) || self.subjects.all(s, s.matches('^[A-Za-z0-9._-]+$'))")
        .message("subjects are topics with broker.kafka: use names without wildcards"),
    validation = Rule::new("!has(self.broker.kafka) || !has(self.delivery.deadLetter) || self.delivery.deadLetter.subject.matches('^[A-Za-z0-9._-]{1,249}$')")
        .message("delivery.deadLetter.subject is a topic with broker.kafka: use letters, digits, '.', '_' and '-'"),
    validation = Rule::new("!has(self.broker.kafka) || self.idempotency.mode == 'None' || has(self.idempotency.store)")
        .message("idempotency.store must be named with broker.kafka, for example {memory: {}} for trying out; or use mode None"),
    validation = Rule::new("self.idempotency.mode != 'Transactional' || (has(self.idempotency.store) && has(self.idempotency.store.postgres) && (has(self.handler.inventory) || (has(self.handler.analytics) && self.handler.analytics.store == 'Postgres')))")
        .message("idempotency.mode Transactional needs idempotency.store.postgres and a handler that commits to it: inventory, or analytics with store Postgres"),
    validation = Rule::new("self.idempotency.mode == 'Transactional' || !(has(self.handler.inventory) || (has(self.handler.analytics) && self.handler.analytics.store == 'Postgres'))")
        .message("handler.inventory, and handler.analytics with store Postgres, need idempotency.mode Transactional"),
    validation = Rule::new("!has(self.idempotency.store) || !has(self.idempotency.store.jetStreamKV) || has(self.broker.jetStream)")
        .message("idempotency.store.jetStreamKV needs broker.jetStream: use another store"),
    validation = Rule::new("self.ordering != 'Key' || has(self.orderingKey)")
        .message("orderingKey must say what keeps events in order, for example {field: order_id}"),
    validation = Rule::new("self.ordering == 'Key' || !has(self.orderingKey)")
        .message("orderingKey has no use without ordering Key: remove it or set ordering: Key"),
    validation = Rule::new("self.ordering != 'Partition' || has(self.broker.kafka)")
        .message("ordering Partition needs broker.kafka: use Key"),
    validation = Rule::new("has(self.broker.kafka) || !((has(self.orderingKey) && has(self.orderingKey.messageKey)) || (has(self.idempotency.key) && has(self.idempotency.key.messageKey)))")
        .message("messageKey needs broker.kafka: NATS messages have no key"),
    validation = Rule::new("self.ordering != 'Key' || !has(self.broker.jetStream) || (self.idempotency.mode != 'None' && !(has(self.idempotency.store) && has(self.idempotency.store.memory)))")
        .message("ordering Key with broker.jetStream needs claims in a store that outlives a pod: they keep two replicas from overtaking each other"),
    validation = Rule::new("self.ordering != 'Key' || !has(self.broker.nats) || self.replicas <= 1")
        .message("ordering Key with broker.nats needs replicas: 1: NATS core spreads the events of a key over all replicas"),
    validation = Rule::new("!has(self.idempotency.store) || !has(self.idempotency.store.embedded) || !has(self.broker.nats)")
        .message("idempotency.store.embedded needs broker.jetStream or broker.kafka: use memory with broker.nats"),
    validation = Rule::new("!has(self.idempotency.store) || !has(self.idempotency.store.embedded) || self.replicas <= 1")
        .message("replicas must be 0 or 1 with idempotency.store.embedded: its volume serves one pod"),
    validation = Rule::new("self.delivery.onExhausted != 'DeadLetter' || has(self.delivery.deadLetter)")
        .message("delivery.deadLetter must say where dead letters go, for example {subject: dlq.orders}"),
    validation = Rule::new("self.delivery.onExhausted != 'Pause' || has(self.broker.kafka) || (has(self.broker.jetStream) && self.idempotency.mode != 'None' && !(has(self.idempotency.store) && has(self.idempotency.store.memory)))")
        .message("delivery.onExhausted Pause needs broker.kafka, or broker.jetStream with claims that outlive a pod, which keep the event and its attempts"),
    validation = Rule::new("!has(self.delivery.maxAgeSeconds) || !has(self.broker.nats)")
        .message("delivery.maxAgeSeconds needs broker.jetStream or broker.kafka: NATS core does not say when an event was published"),
    validation = Rule::new("!has(self.delivery.deadLetter) || !self.subjects.exists(s, self.delivery.deadLetter.subject.matches('^' + s.replace('.', '[.]').replace('*', '[^.]+').replace('>', '.+') + '$'))")
        .message("delivery.deadLetter.subject must not match subjects: dead letters would be consumed again"),
    validation = Rule::new("self.delivery.attemptTimeoutSeconds <= self.drainTimeoutSeconds")
        .message("delivery.attemptTimeoutSeconds must be at most drainTimeoutSeconds: an attempt must be able to end within a drain"),
    validation = Rule::new("self.scaling.minReplicas > 0 || has(self.broker.jetStream)")
        .message("scaling.minReplicas 0 needs broker.jetStream: the operator cannot ask Kafka, nor NATS core, what waits; use at least 1"),
    validation = Rule::new("self.scaling.mode != 'Lag' || !has(self.broker.nats)")
        .message("scaling.mode Lag needs broker.jetStream or broker.kafka: NATS core has no lag"),
    validation = Rule::new("self.scaling.mode != 'Lag' || !has(self.idempotency.store) || !has(self.idempotency.store.embedded)")
        .message("scaling.mode Lag has no use with idempotency.store.embedded: its volume serves one pod"),
    validation = Rule::new("self.scaling.mode != 'Lag' || !has(self.broker.jetStream) || self.ordering != 'Key'")
        .message("scaling.mode Lag has no use with ordering Key on broker.jetStream: one replica is at work"),
    validation = Rule::new("(has(self.queueGroup) ? self.queueGroup : '') == (has(oldSelf.queueGroup) ? oldSelf.queueGroup : '')")
        .message("queueGroup cannot be changed: it names the durable or group that knows what is done"),
)]
pub struct EventConsumerSpec {
    /// Where the events come from.
    #[schemars(extend("x-kubernetes-validations" = rules::broker()))]
    pub broker: Broker,

    /// Subjects to consume, for example `orders.placed`. `*` stands for one token, `>` for all that follow. With `kafka`
    /// these are the names of topics, which must exist, without wildcards.
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 128),
            regex(pattern = r"^(>|([A-Za-z0-9_-]+|[*])([.]([A-Za-z0-9_-]+|[*]))*([.]>)?)$")
        ),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub subjects: Vec<String>,

    /// Types of events that are handled, for example `OrderPlaced`. Empty: all. Events of other types are acked, counted
    /// and left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub event_types: Vec<String>,

    /// NATS queue group, JetStream durable and Kafka consumer group, which all replicas share. Default: `<namespace>-<name>`. It cannot be
    /// changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub queue_group: Option<String>,

    /// Concurrent handler calls in each replica. Also bounds how many events a replica takes ahead.
    #[serde(default = "workers")]
    #[schemars(range(min = 1, max = 4096))]
    pub workers: u32,

    /// Which events wait for each other. `Key` on `broker.jetStream` lets one replica be at work and keeps the others
    /// standing by, so that the order holds; it needs NATS 2.14 or newer. On `broker.nats` it needs `replicas: 1`. On
    /// `broker.kafka` it holds for the events of a partition, of which other keys go on.
    #[serde(default)]
    pub ordering: Ordering,

    /// What keeps events in order, with `ordering: Key`, for example `{field: order_id}`. Events whose key cannot be found
    /// are in order among themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = rules::ordering_key()))]
    pub ordering_key: Option<Pick>,

    /// How a repeated event is recognised.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = rules::idempotency()))]
    pub idempotency: Idempotency,

    /// What is done with each event.
    #[schemars(extend("x-kubernetes-validations" = rules::handler()))]
    pub handler: Handler,

    /// How often and how patiently an event is handled, and where it goes when that was not enough.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = rules::delivery()))]
    pub delivery: Delivery,

    /// Pods, with `scaling.mode` `Static` or `External`. Behind the scale subresource. At most 1 with `idempotency.store.embedded`.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// Who decides how many pods there are, and how.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = rules::scaling()))]
    pub scaling: Scaling,

    /// Whether events are taken: `Running`, `Paused` or `Stopped`. `Paused`: the pods are replaced, all at once, by pods
    /// that connect, report the lag and take nothing; what was at work is finished first, for at most
    /// `drainTimeoutSeconds`. `Stopped`: no pods. In both the broker keeps what comes for this consumer, except on NATS
    /// core, where it is gone. `Ready` is `True` with the reason `Paused` or `Stopped`: the consumer is as it was asked to
    /// be.
    #[serde(default)]
    pub run_state: RunState,

    /// Seconds that the work in flight may take after a pod is told to stop. What has not started is handed back at once.
    #[serde(default = "drain_timeout_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub drain_timeout_seconds: u32,

    /// What the pods may be connected to, and connect to.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = rules::network_policy()))]
    pub network_policy: NetworkPolicy,

    /// Labels, resources and placement of the pods.
    #[serde(default)]
    pub template: PodTemplate,
}

/// Labels, resources and placement of the pods. Image, command, volumes and security settings are the operator's.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    pub metadata: PodMetadata,
    /// Resources and placement of the pods.
    pub spec: PodSettings,
}

/// Labels and annotations of the pods. Those that the operator sets cannot be replaced.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodMetadata {
    /// Labels, at most 32.
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = label_value(), "x-kubernetes-validations" = rules::label_keys()))]
    pub labels: BTreeMap<String, String>,
    /// Annotations, at most 32 with values of at most 4096 characters.
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = json!({"type": "string", "maxLength": 4096}),
        "x-kubernetes-validations" = rules::label_keys()
    ))]
    pub annotations: BTreeMap<String, String>,
}

/// Resources and placement of the pods.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSettings {
    /// Resources of the one container. Default: requests of 25m CPU and 32Mi memory, a limit of 256Mi memory; a default
    /// request is no more than the limit that you give, and a default limit no less than the request.
    pub resources: Resources,
    /// Labels that a node must have, at most 32.
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = label_value(), "x-kubernetes-validations" = rules::label_keys()))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate, at most 32.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Priority class of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub priority_class_name: Option<String>,
}

/// Resources of a container, as Kubernetes quantities.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// What the pod is guaranteed, for example `{cpu: 100m, memory: 64Mi}`.
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = quantity(), "x-kubernetes-validations" = rules::label_keys()))]
    pub requests: BTreeMap<String, String>,
    /// What it may use at most.
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = quantity(), "x-kubernetes-validations" = rules::label_keys()))]
    pub limits: BTreeMap<String, String>,
}

/// A taint that the pods tolerate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Key of the taint; empty, with operator `Exists`, for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// `Equal` or `Exists`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 6), regex(pattern = "^(Equal|Exists)$"))]
    pub operator: Option<String>,
    /// Value of the taint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; without it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = "^(NoSchedule|PreferNoSchedule|NoExecute)$"))]
    pub effect: Option<String>,
    /// Seconds that a `NoExecute` taint is tolerated; without it for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub toleration_seconds: Option<i64>,
}

/// What Kubernetes takes as the value of a label. Refused here it is told to whoever wrote it, not to the operator.
fn label_value() -> Value {
    json!({"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"})
}

fn quantity() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 32, "pattern": "^[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"})
}

fn workers() -> u32 {
    16
}

fn replicas() -> i32 {
    1
}

fn drain_timeout_seconds() -> u32 {
    30
}
