//! The signature of Standard Webhooks. Pure.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue, InvalidHeaderValue},
};
use millrace_events::Event;
use sha2::{Digest as _, Sha256};

use crate::http::request::Prepared;

/// Most secrets at once. Two are enough to rotate one.
const SECRETS_MAX: usize = 8;

/// The secrets that requests are signed with. It has no `Debug`: it would show them.
#[derive(Clone)]
pub(crate) struct SigningSecrets(Vec<Vec<u8>>);

/// A text that holds no usable secrets. It does not repeat any of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it must be 1 to 8 secrets of the form whsec_<base64 of 24 to 64 bytes>, separated by spaces")]
pub(crate) struct InvalidSecrets;

impl SigningSecrets {
    /// Reads `whsec_...`, or several of them.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidSecrets> {
        let secrets: Vec<_> = text.split_whitespace().map(parse_one).collect::<Result<_, _>>()?;
        if (1..=SECRETS_MAX).contains(&secrets.len()) { Ok(Self(secrets)) } else { Err(InvalidSecrets) }
    }

    /// Adds the three headers to `request`, which is sent at `seconds` since 1970.
    pub(crate) fn sign(&self, event: &Event, seconds: u64, request: &mut Prepared) -> Result<(), InvalidHeaderValue> {
        let (id, timestamp) = (webhook_id(event), seconds.to_string());
        let signatures: Vec<_> =
            self.0.iter().map(|secret| signature(secret, &id, &timestamp, &request.body)).collect();
        add(&mut request.headers, "webhook-id", &id)?;
        add(&mut request.headers, "webhook-timestamp", &timestamp)?;
        add(&mut request.headers, "webhook-signature", &signatures.join(" "))
    }
}

/// The id of an event for its receiver: the same at every attempt, and without a point, which separates it from what follows
/// in the signed text. Do not change how it is made.
fn webhook_id(event: &Event) -> String {
    let mut hasher = Sha256::new();
    hasher.update(&event.source);
    hasher.update([0]);
    hasher.update(event.id.as_str());
    let mut digest = format!("{:x}", hasher.finalize());
    digest.truncate(40);
    format!("msg_{digest}")
}

fn signature(secret: &[u8], id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

fn parse_one(text: &str) -> Result<Vec<u8>, InvalidSecrets> {
    let base64 = text.strip_prefix("whsec_").ok_or(InvalidSecrets)?;
    let bytes = BASE64_STANDARD.decode(base64).map_err(|_| InvalidSecrets)?;
    if (24..=64).contains(&bytes.len()) { Ok(bytes) } else { Err(InvalidSecrets) }
}

fn add(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), InvalidHeaderValue> {
    headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use millrace_testkit::sample;
    use standardwebhooks::Webhook;

    use super::*;
    use crate::http::request::{ContentMode, prepare};

    fn secret(seed: u8, length: usize) -> String {
        format!("whsec_{}", BASE64_STANDARD.encode(vec![seed; length]))
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn signed(secrets: &str, event: &Event, seconds: u64) -> Prepared {
        let mut request = prepare(event, ContentMode::Structured, None).unwrap();
        SigningSecrets::parse(secrets).unwrap().sign(event, seconds, &mut request).unwrap();
        request
    }

    #[test]
    fn another_implementation_accepts_it_with_each_of_the_secrets_and_no_other() {
        let (old, new, other) = (secret(1, 24), secret(2, 64), secret(3, 32));
        let request = signed(&format!("{new} {old}"), &sample::event("1"), now());

        let accepts = |secret: &str, body: &[u8]| Webhook::new(secret).unwrap().verify(body, &request.headers).is_ok();
        assert!(accepts(&old, &request.body) && accepts(&new, &request.body));
        assert!(!accepts(&other, &request.body));
        assert!(!accepts(&new, b"another body"));
    }

    #[test]
    fn the_published_example_has_its_signature() {
        // https://github.com/standard-webhooks: the test vector of its libraries.
        let secret = parse_one("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);

        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn the_id_stays_and_the_time_is_that_of_the_attempt() {
        let id = |request: &Prepared| request.headers["webhook-id"].to_str().unwrap().to_owned();
        let (event, secret) = (sample::event("a.b"), secret(1, 32));
        let (first, second) = (signed(&secret, &event, 1000), signed(&secret, &event, 1060));

        assert_eq!(id(&first), id(&second));
        assert!(!id(&first).contains('.'), "{}", id(&first));
        assert_ne!(id(&first), id(&signed(&secret, &sample::event("2"), 1000)));
        assert_ne!(first.headers["webhook-timestamp"], second.headers["webhook-timestamp"]);
        assert_ne!(first.headers["webhook-signature"], second.headers["webhook-signature"]);
        assert_eq!(id(&signed(&secret, &sample::event("1"), 0)), "msg_e3f7ba85cb4cceeef7348d951049ed71d696ed3f");
    }

    #[test]
    fn secrets_of_another_form_are_refused_without_being_repeated() {
        for text in [
            String::new(),
            secret(1, 23),
            secret(1, 65),
            "whsec_???".to_owned(),
            secret(1, 32).replace("whsec_", ""),
            format!("{} hunter2", secret(1, 32)),
            vec![secret(1, 32); 9].join(" "),
        ] {
            let error = SigningSecrets::parse(&text).err().expect(&text).to_string();
            assert!(!error.contains("hunter2") && !error.contains("AQEB"), "{error}");
        }
    }
}
