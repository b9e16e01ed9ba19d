//! The `http` handler.

use std::{path::Path, sync::Arc};

use millrace_config::{
    AddressRanges, ContentMode as ConfiguredMode, Http, ResponsePolicy as ConfiguredPolicy, RuntimeConfig, SecretRef,
};
use millrace_handlers::{
    ContentMode, HttpHandler, HttpOptions, MountedSecret, Reach, ResponsePolicy, SystemResolver, TlsOptions,
};

use crate::wire::seconds;

pub(super) fn http_handler(
    http: &Http,
    config: &RuntimeConfig,
    secrets_dir: &Path,
    allowed: &AddressRanges,
) -> Result<HttpHandler, String> {
    let mounted = |SecretRef { name }: &SecretRef, folder: &str| MountedSecret {
        name: name.clone(),
        directory: secrets_dir.join(folder),
    };
    let tls = http.tls.clone().unwrap_or_default();
    let options = HttpOptions {
        url: http.target(&config.consumer.namespace).map_err(|(field, why)| format!("handler.http.{field}: {why}"))?,
        reach: if http.service_ref.is_some() { Reach::Service } else { Reach::Public },
        allowed: allowed.0.clone(),
        content_mode: match http.content_mode {
            ConfiguredMode::Binary => ContentMode::Binary,
            ConfiguredMode::Structured => ContentMode::Structured,
        },
        response_policy: match http.response_policy {
            ConfiguredPolicy::Knative => ResponsePolicy::Knative,
            ConfiguredPolicy::Dapr => ResponsePolicy::Dapr,
            ConfiguredPolicy::Webhook => ResponsePolicy::Webhook,
        },
        signing: http.signing.as_ref().map(|signing| mounted(&signing.secret_ref, "http-signing")),
        headers: http.headers_secret_ref.as_ref().map(|secret| mounted(secret, "http-headers")),
        tls: TlsOptions {
            ca: tls.ca_secret_ref.as_ref().map(|secret| mounted(secret, "http-ca")),
            client: tls.client_secret_ref.as_ref().map(|secret| mounted(secret, "http-client")),
        },
        connections_max: usize::try_from(config.workers).unwrap_or(usize::MAX),
        attempt_timeout: seconds(config.delivery.attempt_timeout_seconds),
    };
    HttpHandler::new(options, Arc::new(SystemResolver)).map_err(|error| error.to_string())
}
