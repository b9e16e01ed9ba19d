//! What a request takes from Secrets: headers and signing secrets. Read again after a moment, so that what is rotated is
//! used without a restart.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use millrace_core::health::{Trouble, TroubleReason};
use millrace_secret::MountedSecret;
use tokio::time::Instant;

use crate::http::sign::SigningSecrets;

/// The time after which Secrets are read again: a few small files, and far less than the kubelet takes to bring a change.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Most headers from a Secret.
const HEADERS_MAX: usize = 32;

/// Most bytes of one header's value. Many servers take no more than 8 KiB of all headers together.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// Headers that the request itself defines, or the connection.
const REFUSED: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Beginnings of names of headers that the request itself defines.
const REFUSED_PREFIXES: [&str; 2] = ["ce-", "webhook-"];

/// What Secrets add to a request now.
pub(crate) struct Additions {
    pub(crate) headers: HeaderMap,
    pub(crate) signing: Option<SigningSecrets>,
}

/// Where the additions come from.
pub(crate) struct RequestSecrets {
    pub(crate) headers: Option<MountedSecret>,
    pub(crate) signing: Option<MountedSecret>,
    pub(crate) last: Mutex<Option<(Instant, Arc<Additions>)>>,
}

impl RequestSecrets {
    /// What the Secrets say now, or said a moment ago.
    pub(crate) fn current(&self) -> Result<Arc<Additions>, Trouble> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, additions)) = last.as_ref().filter(|(read_at, _)| read_at.elapsed() < FRESH_FOR) {
            return Ok(Arc::clone(additions));
        }
        *last = None;
        let additions = Arc::new(self.read()?);
        *last = Some((Instant::now(), Arc::clone(&additions)));
        Ok(additions)
    }

    fn read(&self) -> Result<Additions, Trouble> {
        let signing = self.signing.as_ref().map(|secret| {
            let text = secret.require("secret")?;
            SigningSecrets::parse(&text).map_err(|error| secret.invalid(&format!("its key \"secret\": {error}")))
        });
        Ok(Additions {
            headers: self.headers.as_ref().map(read_headers).transpose()?.unwrap_or_default(),
            signing: signing.transpose()?,
        })
    }
}

/// The headers that a Secret holds: each key is a name.
fn read_headers(secret: &MountedSecret) -> Result<HeaderMap, Trouble> {
    let keys = secret.keys()?;
    if keys.is_empty() {
        let message =
            format!("secret {:?} does not exist or has no keys; create it with a key for each header", secret.name);
        return Err(Trouble::new(TroubleReason::SecretMissing, message));
    }
    if keys.len() > HEADERS_MAX {
        return Err(secret.invalid(&format!("it has {} keys; use at most {HEADERS_MAX}", keys.len())));
    }
    let mut headers = HeaderMap::new();
    for key in keys {
        let name = header_name(&key).map_err(|why| secret.invalid(&format!("its key {key:?} {why}")))?;
        let text = secret.require(&key)?;
        let value = HeaderValue::from_str(&text).ok().filter(|_| text.is_ascii() && text.len() <= VALUE_BYTES_MAX);
        let mut value = value.ok_or_else(|| {
            secret.invalid(&format!("the value of its key {key:?} is not one line of printable ASCII of at most 8 KiB"))
        })?;
        value.set_sensitive(true);
        if headers.insert(name, value).is_some() {
            return Err(secret.invalid(&format!("its key {key:?} is there twice, in capitals and not")));
        }
    }
    Ok(headers)
}

fn header_name(key: &str) -> Result<HeaderName, &'static str> {
    let name = HeaderName::from_bytes(key.as_bytes()).map_err(|_| "is not the name of a header")?;
    let refused = REFUSED.contains(&name.as_str());
    if refused || REFUSED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)) {
        return Err("names a header that the request itself defines; remove it");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn mounted(entries: &[(&str, &str)]) -> (TempDir, MountedSecret) {
        let mount = tempfile::tempdir().unwrap();
        for (key, value) in entries {
            fs::write(mount.path().join(key), value).unwrap();
        }
        let secret = MountedSecret { name: "orders-api".to_owned(), directory: mount.path().to_owned() };
        (mount, secret)
    }

    #[test]
    fn each_key_is_a_header_and_what_the_kubelet_keeps_beside_is_none() {
        let (mount, secret) = mounted(&[("Authorization", "Bearer hunter2\n"), ("X-Tenant", "shop")]);
        fs::create_dir(mount.path().join("..2026_01_01")).unwrap();
        fs::write(mount.path().join("..data"), "x").unwrap();

        let headers = read_headers(&secret).unwrap();

        assert_eq!(headers.len(), 2);
        assert_eq!(headers["authorization"], "Bearer hunter2");
        assert!(!format!("{headers:?}").contains("hunter2"), "{headers:?}");
    }

    #[test]
    fn a_header_of_the_request_itself_and_a_value_that_is_none_are_refused_by_name() {
        let refused =
            ["Host", "content-length", "Transfer-Encoding", "ce-id", "CE-Source", "webhook-id", "Content-Type", "TE"];
        for key in refused.into_iter().chain(["a b", "ä"]) {
            let (_mount, secret) = mounted(&[(key, "hunter2")]);
            let trouble = read_headers(&secret).expect_err(key);
            assert_eq!(trouble.reason, TroubleReason::SecretInvalid);
            assert!(trouble.message.contains(key) && !trouble.message.contains("hunter2"), "{trouble}");
        }
        for value in ["hunter2\r\nhost: x", "hunter2\u{7f}", "hunter2é", &"hunter2".repeat(2000)] {
            let (_mount, secret) = mounted(&[("x-key", value)]);
            let trouble = read_headers(&secret).expect_err(value);
            assert!(trouble.message.contains("x-key") && !trouble.message.contains("hunter2"), "{trouble}");
        }
        let (_mount, secret) = mounted(&[("X-Key", "1"), ("x-key", "2")]);
        assert_eq!(read_headers(&secret).unwrap_err().reason, TroubleReason::SecretInvalid);
    }

    #[test]
    fn a_secret_that_is_missing_is_told_from_one_that_is_wrong() {
        let (_mount, secret) = mounted(&[]);
        let nowhere = MountedSecret { directory: "/nonexistent".into(), ..secret.clone() };
        for secret in [secret, nowhere] {
            assert_eq!(read_headers(&secret).unwrap_err().reason, TroubleReason::SecretMissing);
        }
    }
}
