//! What the pods may be connected to, and connect to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A `NetworkPolicy` for the pods.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicy {
    /// `None`: there is no policy of ours. `Restricted`: the pods accept connections on their port 8080 only (`/status`,
    /// `/metrics`, probes) and open none but to DNS and to what this object names: the servers of the broker; the store, on
    /// 5432 (PostgreSQL) or 6379 (Redis); the handler, on the port of its `url`, on 465 and 587 for `email`, or, with
    /// `serviceRef`, any pod of this namespace; and the collector of traces. A policy knows addresses and ports but no names: a
    /// server given by its name may be at any address, on its port. Nothing is enforced without a network plugin that
    /// enforces policies.
    pub mode: NetworkPolicyMode,

    /// Further TCP ports that the pods may connect to, at any address, with `mode: Restricted`. They are needed where a connection
    /// ends at another port than the object shows: pods behind a Service whose `targetPort` differs from its port, Kafka
    /// brokers that advertise another port than the bootstrap servers have, a database or mail server on a port of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 65535)), extend("x-kubernetes-list-type" = "atomic"))]
    pub egress_ports: Vec<u16>,
}

/// What the pods may be connected to, and connect to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum NetworkPolicyMode {
    /// Whatever the namespace lets them.
    #[default]
    None,
    /// What the object names.
    Restricted,
}
