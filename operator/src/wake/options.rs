//! What the operator asks a broker with: the same as the runtime of the consumer, from the same configuration.

use std::{path::Path, time::Duration};

use millrace_config::{InitialPosition as ConfiguredPosition, Ordering, SecretRef};
use millrace_core::backoff::Backoff;
use millrace_nats::{ConnectionOptions, InitialPosition, JetStreamOptions, MountedSecret, TlsOptions};

use crate::validate::Valid;

/// How to connect, and the durable; nothing where the consumer is not on `JetStream`. `folder` has its Secrets.
pub(super) fn options(valid: &Valid, folder: &Path) -> Option<(ConnectionOptions, JetStreamOptions)> {
    let config = &valid.config;
    let jet_stream = config.broker.jet_stream.as_ref()?;
    let kept =
        |secret: &SecretRef, name: &str| MountedSecret { name: secret.name.clone(), directory: folder.join(name) };
    let connecting = ConnectionOptions {
        servers: config.broker.servers().to_vec(),
        auth: config.broker.auth_secret_ref().map(|secret| kept(secret, "broker")),
        tls: config.broker.tls().map(|tls| TlsOptions {
            ca: tls.ca_secret_ref.as_ref().map(|secret| kept(secret, "broker-ca")),
            client: tls.client_secret_ref.as_ref().map(|secret| kept(secret, "broker-client")),
        }),
        name: format!("millrace operator {}/{}", valid.namespace, valid.name),
        request_timeout: Duration::from_millis(config.limits.request_milliseconds.into()),
        reconnect: Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1), jitter_percent: 20 },
    };
    let consuming = JetStreamOptions {
        stream: jet_stream.stream.clone(),
        durable: config.queue_group(),
        subjects: config.subjects.clone(),
        initial_position: match jet_stream.initial_position {
            ConfiguredPosition::All => InitialPosition::All,
            ConfiguredPosition::New => InitialPosition::New,
        },
        in_order: config.ordering == Ordering::Key,
        ack_wait: Duration::from_secs(jet_stream.ack_wait_seconds.into()),
        dead_letter_subject: config.delivery.dead_letter.as_ref().map(|letter| letter.subject.clone()),
    };
    Some((connecting, consuming))
}
