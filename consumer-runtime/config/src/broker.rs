//! Where the events come from.

use serde::{Deserialize, Serialize};

use crate::defaults;

/// The broker that the events come from: exactly one of `jetStream`, `nats` and `kafka`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Broker {
    /// NATS JetStream: events are kept until they are settled. Delivery is at least once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jet_stream: Option<JetStream>,

    /// NATS core: at most once. What is published while no consumer is connected, or faster than it can take, is gone.
    /// `status.deliveryGuarantee` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<Nats>,

    /// Kafka: events are kept as long as their topic keeps them. Delivery is at least once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
}

/// What becomes of what the broker keeps for a consumer, when that is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is deleted.
    Delete,
}

/// A JetStream stream, read through one durable pull consumer that all replicas share.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct JetStream {
    /// URLs of the NATS servers, for example `nats://nats.nats.svc:4222`. One is enough to find the rest of a cluster.
    /// User names and passwords do not belong here: use `authSecretRef`.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 16),
            inner(
                length(min = 1, max = 256),
                regex(pattern = r"^nats://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$")
            ),
            extend("x-kubernetes-list-type" = "atomic")
        )
    )]
    pub servers: Vec<String>,

    /// Name of the stream. Without it, the one stream whose subjects cover `subjects` is looked up at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 255), regex(pattern = r"^[^\s.*>/\\]+$")))]
    pub stream: Option<String>,

    /// Where a new durable starts: `All` takes everything that the stream holds, `New` only what comes from then on.
    /// Read when the durable is first made; it has no influence later.
    #[serde(default)]
    pub initial_position: InitialPosition,

    /// What becomes of the durable when this object is deleted. `Retain` leaves it, so that an object of the same name and
    /// namespace goes on where this one ended. `Delete` deletes it: once the pods have gone, a Job with the consumer's own
    /// Secrets asks the server. When that has not worked 60 seconds after the drain timeout the durable is left, an Event
    /// with the reason `DurableLeft` says so, and the object goes. Until then the object has the finalizer
    /// `millrace.dev/durable`; where no operator runs any more, take it off with
    /// `kubectl patch evc NAME --type=merge -p '{"metadata":{"finalizers":null}}'`. Do not use `Delete` where several objects
    /// share a `queueGroup`.
    #[serde(default, skip_serializing_if = "defaults::is_default")]
    pub deletion_policy: DeletionPolicy,

    /// Seconds that the server waits for an event to be settled before it delivers it again. A slow handler is no
    /// reason to raise it: the runtime tells the server every third of this time that work goes on.
    #[serde(default = "defaults::ack_wait_seconds")]
    #[cfg_attr(feature = "schema", schemars(range(min = 2, max = 3600)))]
    pub ack_wait_seconds: u32,

    /// Secret in the same namespace with the credentials: one of the keys `creds` (a NATS credentials file), `nkey`
    /// (an nkey seed), `token`, or both `username` and `password`. Without it, the connection is anonymous. What is rotated
    /// is used from the next connection on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<SecretRef>,

    /// TLS. Without it, TLS is used if the server asks for it, with the authorities that the image trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// NATS core subjects, shared among the replicas by a queue group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Nats {
    /// URLs of the NATS servers, for example `nats://nats.nats.svc:4222`. One is enough to find the rest of a cluster.
    /// User names and passwords do not belong here: use `authSecretRef`.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 16),
            inner(
                length(min = 1, max = 256),
                regex(pattern = r"^nats://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$")
            ),
            extend("x-kubernetes-list-type" = "atomic")
        )
    )]
    pub servers: Vec<String>,

    /// Secret in the same namespace with the credentials: one of the keys `creds` (a NATS credentials file), `nkey`
    /// (an nkey seed), `token`, or both `username` and `password`. Without it, the connection is anonymous. What is rotated
    /// is used from the next connection on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<SecretRef>,

    /// TLS. Without it, TLS is used if the server asks for it, with the authorities that the image trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// Kafka topics, shared among the replicas by a consumer group. More replicas than the topics have partitions are idle.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Kafka {
    /// Addresses of some brokers as `host:port`, for example `kafka-bootstrap.kafka.svc:9092`. They name the rest.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 16),
            inner(length(min = 1, max = 256), regex(pattern = r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$")),
            extend("x-kubernetes-list-type" = "atomic")
        )
    )]
    pub bootstrap_servers: Vec<String>,

    /// Where the group starts in a partition that it has committed nothing of: `Earliest` with the oldest event that the
    /// partition holds, `Latest` with the first one published after the partition is first assigned. `Latest` also counts for
    /// partitions that are added later: what they get within the first half minute may be missed.
    #[serde(default)]
    pub initial_position: KafkaPosition,

    /// Secret in the same namespace with the keys `username` and `password`. Without it, the connection is anonymous. When
    /// it is rotated, the client is made anew within seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<SecretRef>,

    /// How user name and password are shown: `SCRAM-SHA-512` (default), `SCRAM-SHA-256` or `PLAIN`. `PLAIN` shows the
    /// password to whoever listens: use it with `tls` only. It has no use without `authSecretRef`.
    #[serde(default)]
    pub sasl_mechanism: SaslMechanism,

    /// TLS. Without it, the connection is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// Where a group starts in a partition that it has committed nothing of.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum KafkaPosition {
    /// With the oldest event that the partition holds.
    #[default]
    Earliest,
    /// With the first event published after the partition is first assigned.
    Latest,
}

/// How a user name and password are shown to a Kafka broker.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SaslMechanism {
    /// As they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// By SCRAM with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// By SCRAM with SHA-512.
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// TLS of a connection. With this block, empty or not, a server without TLS is refused. Certificates that are rotated are
/// used from the next connection on.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    /// Secret in the same namespace with the authorities that are trusted: PEM under the key `ca.crt`. Without it, those
    /// that the image trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretRef>,

    /// Secret in the same namespace with the certificate and key that the server asks for: PEM under the keys `tls.crt`
    /// and `tls.key`, as in Secrets of the type `kubernetes.io/tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretRef>,
}

/// A Secret in the namespace of the object that names it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))
    )]
    pub name: String,
}

/// Where a new durable starts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum InitialPosition {
    /// With the oldest event that the stream holds.
    #[default]
    All,
    /// With the first event published after the durable is made.
    New,
}

impl Broker {
    /// The addresses of the servers of whichever broker is set.
    pub fn servers(&self) -> &[String] {
        match self {
            Self { jet_stream: Some(jet_stream), .. } => &jet_stream.servers,
            Self { nats: Some(nats), .. } => &nats.servers,
            Self { kafka: Some(kafka), .. } => &kafka.bootstrap_servers,
            Self { .. } => &[],
        }
    }

    /// Whether it keeps events until they are handled, and dead letters until they are put back.
    pub fn keeps_events(&self) -> bool {
        self.nats.is_none()
    }

    /// The Secret with the credentials of whichever broker is set.
    pub fn auth_secret_ref(&self) -> Option<&SecretRef> {
        match self {
            Self { jet_stream: Some(jet_stream), .. } => jet_stream.auth_secret_ref.as_ref(),
            Self { nats: Some(nats), .. } => nats.auth_secret_ref.as_ref(),
            Self { kafka: Some(kafka), .. } => kafka.auth_secret_ref.as_ref(),
            Self { .. } => None,
        }
    }

    /// The TLS settings of whichever broker is set.
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self { jet_stream: Some(jet_stream), .. } => jet_stream.tls.as_ref(),
            Self { nats: Some(nats), .. } => nats.tls.as_ref(),
            Self { kafka: Some(kafka), .. } => kafka.tls.as_ref(),
            Self { .. } => None,
        }
    }
}
