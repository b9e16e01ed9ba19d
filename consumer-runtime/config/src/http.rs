//! The `http` handler: where events are posted to, and how.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    broker::{SecretRef, Tls},
    defaults,
};

/// The `http` handler: each event is one POST of a CloudEvent. Exactly one of `url` and `serviceRef` says where to.
///
/// The receiver can tell a repeated event by `ce-id` and `ce-source`, which are the same at every attempt. Redirects are never
/// followed, answers are read up to 64 KiB, and the settings of a proxy are ignored.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Http {
    /// URL to post to, for example `https://hooks.example.com/orders`. Without user name, password and fragment: use
    /// `headersSecretRef` for credentials. A host with other letters than ASCII is written in punycode. Only public
    /// addresses are called; whoever runs the operator can allow others with `--http-allow`. For a Service of the cluster
    /// use `serviceRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 8, max = 2048),
            regex(pattern = r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][^#\s]*)?$")
        )
    )]
    pub url: Option<String>,

    /// Service in the same namespace to post to, for example `{name: orders, port: 8080, path: /events}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_ref: Option<ServiceRef>,

    /// Form of the request. `Binary` sends the attributes as `ce-` headers and the data as body; `Structured` sends one
    /// JSON document of the media type `application/cloudevents+json`.
    #[serde(default)]
    pub content_mode: ContentMode,

    /// How the status code of an answer is understood. For all of them 2xx is success, a redirect is a permanent failure,
    /// and the time that `Retry-After` asks for is waited, up to `delivery.backoff.maxSeconds`.
    #[serde(default)]
    pub response_policy: ResponsePolicy,

    /// Signs each request as Standard Webhooks says. Without it, requests are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<Signing>,

    /// Secret in the same namespace whose keys are names of headers to add, for example `Authorization`, at most 32. Headers
    /// that the request itself defines are refused: `Host`, `Content-Type`, `Content-Length`, `traceparent`, `ce-`,
    /// `webhook-` and those of the connection. A changed Secret is used within seconds of reaching the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers_secret_ref: Option<SecretRef>,

    /// TLS: own authorities, and a certificate for the receiver. Not with an `http://` URL. Without it, an `https://` URL
    /// is trusted by the authorities that the image trusts. With `serviceRef` this block, empty or not, turns TLS on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// A Service in the namespace of the object that names it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Name of the Service.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    pub name: String,

    /// Port of the Service.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65535)))]
    pub port: u16,

    /// Path and query to post to.
    #[serde(default = "defaults::service_path")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 1024), regex(pattern = r"^/[^#\s\\]*$")))]
    pub path: String,
}

/// Form of a request.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ContentMode {
    /// Attributes as `ce-` headers, data as body.
    #[default]
    Binary,
    /// One JSON document.
    Structured,
}

/// How the status code of an answer is understood.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ResponsePolicy {
    /// As Knative's data plane: 404, 408, 409, 425, 429, 5xx and unknown codes are tried again; other 4xx are permanent.
    #[default]
    Knative,
    /// As Dapr's subscriptions: the `status` of a JSON body decides on 2xx (`SUCCESS`, `RETRY`, `DROP`); 404 is permanent
    /// like `DROP`; other codes are tried again.
    Dapr,
    /// As Standard Webhooks: 410 is permanent, every other code is tried again.
    Webhook,
}

/// The signature of Standard Webhooks: headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Signing {
    /// Secret in the same namespace with the key `secret`: `whsec_` and the base64 of 24 to 64 bytes. Several, separated by
    /// spaces and at most 8, give a signature each: so a secret is rotated without a gap. A changed Secret is used within
    /// seconds of reaching the pod.
    pub secret_ref: SecretRef,
}

impl Http {
    /// Where events are posted to, for an object in `namespace`.
    ///
    /// # Errors
    /// Says which field is wrong and why.
    pub fn target(&self, namespace: &str) -> Result<Url, (&'static str, String)> {
        match (&self.url, &self.service_ref) {
            (Some(url), None) => parse_url(url).map_err(|why| ("url", why)),
            (None, Some(service)) => service.target(namespace, self.tls.is_some()).map_err(|why| ("serviceRef", why)),
            (Some(_), Some(_)) | (None, None) => Err(("", "set exactly one of url and serviceRef".to_owned())),
        }
    }
}

impl ServiceRef {
    fn target(&self, namespace: &str, tls: bool) -> Result<Url, String> {
        if !is_dns_label(&self.name) || !is_dns_label(namespace) {
            return Err(format!("{:?} is not the name of a Service: use letters, digits and '-'", self.name));
        }
        if self.port == 0 {
            return Err("port 0 is out of range: use 1 to 65535".to_owned());
        }
        if !self.path.starts_with('/') || self.path.contains(['#', '\\']) || self.path.contains(char::is_whitespace) {
            return Err(format!("{:?} is not a path: start with '/', without '#', '\\' and spaces", self.path));
        }
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}.{namespace}.svc:{}{}", self.name, self.port, self.path);
        url.parse().map_err(|error| format!("it gives no URL: {error}"))
    }
}

/// A URL that can be posted to. The text is not repeated: its query may hold a token.
fn parse_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("use http:// or https:// and a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("leave user name and password out: use headersSecretRef".to_owned());
    }
    if url.fragment().is_some() {
        return Err("leave the fragment (#...) out".to_owned());
    }
    Ok(url)
}

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_url(url: &str) -> Result<String, String> {
        let http = Http { url: Some(url.to_owned()), ..Http::default() };
        http.target("shop").map(String::from).map_err(|(_, why)| why)
    }

    fn to_service(name: &str, path: &str) -> Result<String, String> {
        let service = ServiceRef { name: name.to_owned(), port: 8080, path: path.to_owned() };
        let http = Http { service_ref: Some(service), ..Http::default() };
        http.target("shop").map(String::from).map_err(|(_, why)| why)
    }

    #[test]
    fn a_url_with_another_scheme_a_login_or_a_fragment_is_refused_without_repeating_it() {
        assert_eq!(
            to_url("https://hooks.example.com/in?token=s3cret").unwrap(),
            "https://hooks.example.com/in?token=s3cret"
        );
        for url in [
            "file:///s3cret",
            "gopher://s3cret/",
            "http://",
            "http://:80/s3cret",
            "https://user:s3cret@example.com/",
            "https://s3cret@example.com/",
            "https://example.com/#s3cret",
            "https://example.com:99999/s3cret",
            "https://[::zz]/s3cret",
            "s3cret",
        ] {
            let why = to_url(url).expect_err(url);
            assert!(!why.contains("s3cret"), "{why}");
        }
    }

    #[test]
    fn a_service_is_one_host_of_the_own_namespace_whatever_its_name_and_path_try() {
        assert_eq!(to_service("orders", "/in?x=1").unwrap(), "http://orders.shop.svc:8080/in?x=1");
        for path in ["/", "//evil.example/", "/../../x", "/@evil.example", "/:80/"] {
            let url: Url = to_service("orders", path).unwrap().parse().unwrap();
            assert_eq!((url.host_str(), url.port()), (Some("orders.shop.svc"), Some(8080)), "{path}");
        }
        for (name, path) in [
            ("evil.example", "/"),
            ("a/b", "/"),
            ("a@b", "/"),
            ("a:1", "/"),
            ("", "/"),
            ("-a", "/"),
            ("A", "/"),
            ("orders", ""),
            ("orders", "@evil.example"),
            ("orders", ".evil.example/"),
            ("orders", "/\\x"),
            ("orders", "/a b"),
        ] {
            to_service(name, path).expect_err(&format!("{name} {path}"));
        }
    }

    #[test]
    fn the_tls_block_turns_tls_on_for_a_service() {
        let service = ServiceRef { name: "orders".to_owned(), port: 8443, path: "/".to_owned() };
        let http = Http { service_ref: Some(service), tls: Some(Tls::default()), ..Http::default() };

        assert_eq!(http.target("shop").unwrap().as_str(), "https://orders.shop.svc:8443/");
    }
}
