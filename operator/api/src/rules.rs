//! Rules that the API server checks of one field, whatever the others say. Those between fields are at the spec.
//!
//! To look a field up, a rule makes a table of all fields beside it, each time anew, and all rules are checked whenever the
//! object is written, its status included. So a rule is where the fewest fields are.

use serde_json::{Value, json};

pub(crate) fn broker() -> Value {
    json!([
        {
            "rule": "(has(self.jetStream) ? 1 : 0) + (has(self.nats) ? 1 : 0) + (has(self.kafka) ? 1 : 0) == 1",
            "message": "broker must have exactly one of jetStream, nats and kafka",
        },
        {
            "rule": "has(self.jetStream) == has(oldSelf.jetStream) && has(self.kafka) == has(oldSelf.kafka)",
            "message": "broker cannot change its kind: delete the EventConsumer and create it again",
        },
        {
            "rule": "!has(self.jetStream) || !has(oldSelf.jetStream) || (has(self.jetStream.stream) ? self.jetStream.stream : '') == (has(oldSelf.jetStream.stream) ? oldSelf.jetStream.stream : '')",
            "message": "broker.jetStream.stream cannot be changed: delete the EventConsumer and create it again",
        },
    ])
}

pub(crate) fn handler() -> Value {
    json!([
        {
            "rule": "(has(self.log) ? 1 : 0) + (has(self.email) ? 1 : 0) + (has(self.analytics) ? 1 : 0) + (has(self.inventory) ? 1 : 0) + (has(self.http) ? 1 : 0) == 1",
            "message": "handler must have exactly one of log, email, analytics, inventory and http",
        },
        {
            "rule": "!has(self.http) || has(self.http.url) != has(self.http.serviceRef)",
            "message": "handler.http must have exactly one of url and serviceRef",
        },
        {
            "rule": "!has(self.http) || !has(self.http.tls) || !has(self.http.url) || self.http.url.startsWith('https://')",
            "message": "handler.http.tls needs an https:// url: correct the url or remove tls",
        },
    ])
}

pub(crate) fn idempotency() -> Value {
    json!([
        {
            "rule": "!has(self.store) || (has(self.store.embedded) ? 1 : 0) + (has(self.store.jetStreamKV) ? 1 : 0) + (has(self.store.memory) ? 1 : 0) + (has(self.store.postgres) ? 1 : 0) + (has(self.store.redis) ? 1 : 0) == 1",
            "message": "idempotency.store must have exactly one of embedded, jetStreamKV, memory, postgres and redis",
        },
        {
            "rule": "!has(self.store) || self.mode != 'None'",
            "message": "idempotency.store has no use with mode None: remove it or use mode Claim",
        },
        {
            "rule": "!has(self.key) || (has(self.key.header) ? 1 : 0) + (has(self.key.field) ? 1 : 0) + (has(self.key.subjectToken) ? 1 : 0) + (has(self.key.messageKey) ? 1 : 0) == 1",
            "message": "idempotency.key must have exactly one of header, field, subjectToken and messageKey",
        },
        {
            "rule": "!has(self.key) || self.mode != 'None'",
            "message": "idempotency.key has no use with mode None: remove it or use mode Claim",
        },
        {
            "rule": "!has(self.store) || !has(self.store.embedded) || !has(oldSelf.store) || !has(oldSelf.store.embedded) || (has(self.store.embedded.volumeClaim.storageClassName) ? self.store.embedded.volumeClaim.storageClassName : '') == (has(oldSelf.store.embedded.volumeClaim.storageClassName) ? oldSelf.store.embedded.volumeClaim.storageClassName : '')",
            "message": "idempotency.store.embedded.volumeClaim.storageClassName cannot be changed: a volume keeps its class",
        },
    ])
}

pub(crate) fn ordering_key() -> Value {
    json!([{
        "rule": "(has(self.header) ? 1 : 0) + (has(self.field) ? 1 : 0) + (has(self.subjectToken) ? 1 : 0) + (has(self.messageKey) ? 1 : 0) == 1",
        "message": "orderingKey must have exactly one of header, field, subjectToken and messageKey",
    }])
}

pub(crate) fn delivery() -> Value {
    // That a dead letter must have a place is at the spec: the default of this field breaks it.
    json!([{
        "rule": "self.onExhausted == 'DeadLetter' || !has(self.deadLetter)",
        "message": "delivery.deadLetter has no use with onExhausted Pause or Drop: remove it",
    }])
}

pub(crate) fn scaling() -> Value {
    json!([{
        "rule": "self.minReplicas <= self.maxReplicas",
        "message": "scaling.minReplicas must be at most scaling.maxReplicas",
    }])
}

pub(crate) fn network_policy() -> Value {
    json!([{
        "rule": "self.mode != 'None' || !has(self.egressPorts) || size(self.egressPorts) == 0",
        "message": "networkPolicy.egressPorts has no use with mode None: remove it or use mode Restricted",
    }])
}

/// What Kubernetes takes as the key of a label or annotation, and as the name of a resource.
pub(crate) fn label_keys() -> Value {
    json!([{
        "rule": "self.all(key, key.matches('^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
        "message": "keys of labels, annotations, nodeSelector and resources must be like those of Kubernetes labels: at most 63 letters, digits, '-', '_' and '.', after an optional domain and '/'",
    }])
}
