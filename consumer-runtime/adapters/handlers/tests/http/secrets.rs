//! Headers and signatures from Secrets, which may be missing, wrong and changed.

use std::{
    fs,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use millrace_core::{
    health::TroubleReason,
    outcome::{Effect, Outcome},
    ports::Handler as _,
};
use millrace_handlers::{HttpHandler, HttpOptions, MountedSecret};
use millrace_testkit::http_sink::{HttpSink, Received, Reply};
use standardwebhooks::Webhook;
use tempfile::TempDir;

use crate::support::{assert_retryable, handler, options, post};

fn mounted(mount: &TempDir) -> MountedSecret {
    MountedSecret { name: "webhook".to_owned(), directory: mount.path().to_owned() }
}

fn secret(seed: u8) -> String {
    format!("whsec_{}", BASE64_STANDARD.encode([seed; 32]))
}

/// Whether another implementation accepts the signature.
fn is_signed_with(secret: &str, request: &Received) -> bool {
    let headers: HeaderMap = request
        .headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect();
    Webhook::new(secret).unwrap().verify(&request.body, &headers).is_ok()
}

/// Posts until a request shows what is waited for.
async fn post_until(handler: &HttpHandler, sink: &HttpSink, what: impl Fn(&Received) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        assert_eq!(post(handler, "1").await, Outcome::Done);
        if what(sink.received().last().unwrap()) {
            return;
        }
        assert!(Instant::now() < deadline, "a changed Secret is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_request_is_signed_and_a_rotated_secret_is_used_without_a_gap() {
    let (sink, mount) = (HttpSink::start().await, TempDir::new().unwrap());
    let put = |value: &str| fs::write(mount.path().join("secret"), value).unwrap();
    let (old, new) = (secret(1), secret(2));
    put(&format!("{old}\n"));
    let handler = handler(HttpOptions { signing: Some(mounted(&mount)), ..options(&sink.url()) });

    post_until(&handler, &sink, |request| is_signed_with(&old, request)).await;
    put(&format!("{new} {old}"));
    post_until(&handler, &sink, |request| is_signed_with(&new, request)).await;
    put(&new);
    post_until(&handler, &sink, |request| !is_signed_with(&old, request)).await;

    let received = sink.received();
    assert!(received.iter().all(|request| is_signed_with(&old, request) || is_signed_with(&new, request)));
    assert!(received.iter().all(|request| request.headers["webhook-id"] == received[0].headers["webhook-id"]));
}

#[tokio::test]
async fn headers_are_added_and_changed_ones_are_used_without_a_restart() {
    let (sink, mount) = (HttpSink::start().await, TempDir::new().unwrap());
    let put = |value: &str| fs::write(mount.path().join("Authorization"), value).unwrap();
    let handler = handler(HttpOptions { headers: Some(mounted(&mount)), ..options(&sink.url()) });

    let trouble = handler.check().await.unwrap_err();
    assert_eq!(trouble.reason, TroubleReason::SecretMissing);
    assert!(trouble.message.contains("\"webhook\""), "{trouble}");
    assert_retryable(&handler, Effect::None).await;

    put("Bearer one\n");
    handler.check().await.unwrap();
    post_until(&handler, &sink, |request| request.headers["authorization"] == "Bearer one").await;
    put("Bearer two");
    post_until(&handler, &sink, |request| request.headers["authorization"] == "Bearer two").await;
}

#[tokio::test]
async fn no_secret_and_no_word_of_the_receiver_is_in_an_error() {
    let (sink, mount) = (HttpSink::start().await, TempDir::new().unwrap());
    sink.answer(|request| Reply { body: format!("{request:?}"), ..Reply::status(500) });
    let url = format!("{}/hook?token=s3cret-in-url", sink.url());
    let handler =
        handler(HttpOptions { signing: Some(mounted(&mount)), headers: Some(mounted(&mount)), ..options(&url) });
    for (key, value) in [
        ("secret", "whsec_s3cret"),
        ("secret", &secret(7)),
        ("x-key", "s3cret\u{7f}"),
        ("x-key", "s3cret-in-header"),
        ("host", "s3cret-host"),
    ] {
        fs::write(mount.path().join(key), value).unwrap();
        let error = assert_retryable(&handler, Effect::None).await.error;
        let trouble = handler.check().await.err().map(|trouble| trouble.message).unwrap_or_default();
        for text in [error, trouble] {
            assert!(!text.contains("s3cret") && !text.contains("BwcH") && !text.contains("ada@"), "{text}");
        }
    }
}
