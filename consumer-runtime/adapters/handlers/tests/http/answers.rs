//! What a receiver gets, and what its answers do.

use std::time::Duration;

use millrace_core::{
    outcome::{Effect, FailureClass, Outcome},
    ports::Handler as _,
};
use millrace_events::Reason;
use millrace_handlers::{ContentMode, HttpOptions, ResponsePolicy};
use millrace_testkit::{
    http_sink::{HttpSink, Reply},
    sample,
};

use crate::support::{CONTEXT, failure, handler, options, post};

#[tokio::test]
async fn each_event_is_one_post_over_a_connection_that_is_used_again() {
    let sink = HttpSink::start().await;
    let handler = handler(options(&format!("{}/events?shop=1", sink.url())));
    handler.check().await.unwrap();
    assert!(sink.received().is_empty(), "a check posts nothing");

    for id in ["1", "2", "2"] {
        assert_eq!(post(&handler, id).await, Outcome::Done);
    }

    let received = sink.received();
    let ids: Vec<_> = received.iter().map(|request| request.headers["ce-id"].as_str()).collect();
    assert_eq!(ids, ["1", "2", "2"]);
    assert!(received.iter().all(|request| request.connection == 1), "one connection, that of the check");
    let first = &received[0];
    assert_eq!(first.target, "/events?shop=1");
    assert_eq!(first.headers["host"], format!("127.0.0.1:{}", sink.port()));
    assert_eq!(first.headers["ce-source"], sample::event("1").source);
    assert_eq!(first.headers["content-length"], first.body.len().to_string());
    assert_eq!(first.body, sample::event("1").data);
    for absent in ["cookie", "webhook-id", "transfer-encoding", "prefer"] {
        assert!(!first.headers.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn the_structured_mode_posts_one_document() {
    let sink = HttpSink::start().await;
    let handler = handler(HttpOptions { content_mode: ContentMode::Structured, ..options(&sink.url()) });

    assert_eq!(post(&handler, "1").await, Outcome::Done);

    let received = &sink.received()[0];
    assert_eq!(received.headers["content-type"], "application/cloudevents+json; charset=UTF-8");
    let document: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!((&document["id"], &document["data"]["order_id"]), (&"1".into(), &"order-1".into()));
}

#[tokio::test]
async fn each_policy_understands_the_same_answers_in_its_own_way() {
    let permanent = FailureClass::Permanent(Reason::HandlerRejected);
    let retryable = FailureClass::Retryable;
    let sink = HttpSink::start().await;
    for (policy, expected) in [
        (ResponsePolicy::Knative, [None, Some(retryable), Some(permanent), Some(permanent), Some(retryable)]),
        (ResponsePolicy::Dapr, [Some(permanent), Some(permanent), Some(retryable), Some(retryable), Some(retryable)]),
        (ResponsePolicy::Webhook, [None, Some(retryable), Some(permanent), Some(retryable), Some(retryable)]),
    ] {
        let handler = handler(HttpOptions { response_policy: policy, ..options(&sink.url()) });
        let mut seen = Vec::new();
        for status in [200, 404, 410, 422, 503] {
            sink.answer(move |_| Reply { body: r#"{"status":"DROP"}"#.to_owned(), ..Reply::status(status) });
            seen.push(match post(&handler, "1").await {
                Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => None,
                Outcome::Failed(failure) => Some(failure.class),
            });
        }
        assert_eq!(seen, expected, "{policy:?}");
    }
    assert!(sink.received().iter().all(|request| request.connection <= 3), "a refusal does not cost the connection");
}

#[tokio::test]
async fn the_delay_that_a_receiver_asks_for_is_passed_on() {
    let sink = HttpSink::start().await;
    let handler = handler(options(&sink.url()));
    let asked = async |value: &'static str| {
        sink.answer(move |_| Reply { headers: vec![("retry-after", value.to_owned())], ..Reply::status(429) });
        failure(&handler).await.retry_after
    };

    assert_eq!(asked("7").await, Some(Duration::from_secs(7)));
    assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT").await, Some(Duration::ZERO));
    assert!(asked("Fri, 31 Dec 9999 23:59:59 GMT").await > Some(Duration::from_secs(1_000_000)));
    for garbage in ["-7", "soon"] {
        assert_eq!(asked(garbage).await, None, "{garbage}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let sink = HttpSink::start().await;
    let location = sink.url();
    sink.answer(move |_| Reply { headers: vec![("location", location.clone())], ..Reply::status(307) });
    let handler = handler(options(&sink.url()));

    let failure = failure(&handler).await;

    assert_eq!((failure.class, failure.effect), (FailureClass::Permanent(Reason::HandlerRejected), Effect::None));
    assert!(failure.error.contains("307") && failure.error.contains("redirects are not followed"), "{}", failure.error);
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn an_event_that_no_request_can_carry_is_permanent_and_not_sent() {
    let sink = HttpSink::start().await;
    let handler = handler(options(&sink.url()));
    let mut event = sample::event("1");
    event.extensions.insert("a b".to_owned(), "s3cret".to_owned());

    let Outcome::Failed(failure) = handler.call(&event, &CONTEXT).await else { panic!("it succeeded") };

    assert_eq!(failure.class, FailureClass::Permanent(Reason::InvalidData));
    assert!(!failure.error.contains("s3cret"), "{}", failure.error);
    assert!(sink.received().is_empty());
}
