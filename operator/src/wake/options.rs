//! What the operator asks a broker with: the same as the runtime of the consumer, from the same configuration.

use std::{path::Path, time::Duration};

use millrace_config::{InitialPosition as ConfiguredPosition, Ordering, SecretRef};
use millrace_core::backoff::Backoff;
use millrace_nats::{ConnectionOptions, InitialPosition, JetStreamOptions, MountedSecret, TlsOptions};
use url::{Host, Url};

use crate::validate::Valid;

/// How to connect, and the durable; nothing where the consumer is not on `JetStream`. `folder` has its Secrets.
pub(super) fn options(valid: &Valid, folder: &Path) -> Option<(ConnectionOptions, JetStreamOptions)> {
    let config = &valid.config;
    let jet_stream = config.broker.jet_stream.as_ref()?;
    let kept =
        |secret: &SecretRef, name: &str| MountedSecret { name: secret.name.clone(), directory: folder.join(name) };
    let connecting = ConnectionOptions {
        servers: config.broker.servers().iter().map(|server| as_seen_from_here(server, &valid.namespace)).collect(),
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

/// The address of a server as it is known in other namespaces: `nats` alone is a Service of the consumer's own.
fn as_seen_from_here(server: &str, namespace: &str) -> String {
    let parsed = Url::parse(server).ok().and_then(|mut url| {
        let Some(Host::Domain(name)) = url.host() else { return None };
        let is_service = !name.contains('.') && name != "localhost";
        let name = is_service.then(|| format!("{name}.{namespace}.svc"))?;
        url.set_host(Some(&name)).ok().map(|()| url.to_string())
    });
    parsed.unwrap_or_else(|| server.to_owned())
}

#[cfg(test)]
mod tests {
    use super::as_seen_from_here;

    #[test]
    fn a_service_of_the_consumers_namespace_is_found_from_another_one() {
        for (server, seen) in [
            ("nats://nats:4222", "nats://nats.shop.svc:4222"),
            ("tls://nats", "tls://nats.shop.svc"),
            ("nats://nats.nats:4222", "nats://nats.nats:4222"),
            ("nats://nats.example.com.:4222", "nats://nats.example.com.:4222"),
            ("nats://localhost:4222", "nats://localhost:4222"),
            ("nats://10.0.0.1:4222", "nats://10.0.0.1:4222"),
            ("nats://[::1]:4222", "nats://[::1]:4222"),
        ] {
            assert_eq!(as_seen_from_here(server, "shop"), seen);
        }
    }
}
