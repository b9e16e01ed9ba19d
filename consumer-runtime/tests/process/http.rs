//! The `http` handler in a running process: what reaches the receiver, how often, and what does not.

use std::{collections::BTreeMap, fs, path::Path};

use millrace_testkit::{
    http_sink::{HttpSink, Received, Reply},
    nats_server::NatsServer,
    wait::{eventually, until},
};

use crate::support::{PATIENCE, Runtime, Secret, publish};

const MORE: &str = "delivery: {deadLetter: {subject: dlq.hooks}, maxAttempts: 5, backoff: {initialMilliseconds: 1}}";

fn start(server: &NatsServer, http: &str, secrets: &Path) -> Runtime {
    Runtime::with(server, "hooks", 30, &format!("{{http: {http}}}"), MORE, secrets)
}

fn id(request: &Received) -> u32 {
    request.headers["ce-id"].parse().unwrap()
}

/// How often each event was posted.
fn posts(sink: &HttpSink) -> BTreeMap<u32, u32> {
    sink.received().iter().fold(BTreeMap::new(), |mut posts, request| {
        *posts.entry(id(request)).or_default() += 1;
        posts
    })
}

#[tokio::test]
async fn each_event_is_posted_once_a_busy_receiver_asked_again_and_a_refusal_is_a_dead_letter() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let sink = HttpSink::start().await;
    // Of each ten: one is refused, one finds the receiver busy at its first attempt.
    let mut seen = BTreeMap::<u32, u32>::new();
    let answering = std::sync::Mutex::new(move |id: u32| {
        let attempt = seen.entry(id).or_default();
        *attempt += 1;
        match (id % 10, *attempt) {
            (3, _) => 422,
            (7, 1) => 503,
            _ => 204,
        }
    });
    sink.answer(move |request| Reply {
        headers: vec![("retry-after", "0".to_owned())],
        ..Reply::status(answering.lock().unwrap()(id(request)))
    });
    publish(&context, 0..200).await;
    publish(&context, 0..100).await;

    let url = format!("{{url: '{}/hook'}}", sink.url());
    let runtime = start(&server, &url, Path::new("/nonexistent"));

    eventually("all are done", PATIENCE, || {
        (runtime.total("handled"), runtime.total("deadLetters"), runtime.total("duplicatesSkipped")) == (180, 20, 100)
    })
    .await;
    for (id, posts) in posts(&sink) {
        assert_eq!(posts, if id % 10 == 7 { 2 } else { 1 }, "event {id}");
    }
    assert_eq!(posts(&sink).len(), 200);
    assert_eq!((runtime.total("retries"), runtime.total("possibleDuplicates")), (20, 0));
    let dead_letters = context.get_stream("DLQ").await.unwrap();
    let dead_letter = dead_letters.get_raw_message(1).await.unwrap();
    assert_eq!(dead_letter.headers.get("millrace-reason").unwrap().as_str(), "HandlerRejected");
    let error = dead_letter.headers.get("millrace-error").unwrap().as_str();
    assert_eq!(error, "the receiver answered 422 Unprocessable Entity");
    assert_eq!(dead_letter.headers.get("millrace-attempts").unwrap().as_str(), "1");
}

#[tokio::test]
async fn a_receiver_or_secret_that_is_missing_is_told_and_costs_no_event() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    publish(&context, 0..50).await;
    let sink = HttpSink::start().await;
    let port = sink.port();
    let secrets = Secret::empty();
    let http = format!("{{url: 'http://localhost:{port}/', headersSecretRef: {{name: hooks}}}}");
    let runtime = start(&server, &http, secrets.folder());
    let problem = |reason: &str| runtime.handler_problem().as_deref() == Some(reason);
    eventually("the Secret is missed", PATIENCE, || problem("SecretMissing")).await;

    drop(sink);
    let folder = secrets.folder().join("http-headers");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("authorization"), "Bearer hunter2").unwrap();
    eventually("the receiver is missed", PATIENCE, || problem("Unreachable")).await;
    assert!(!runtime.is_ready());

    let sink = HttpSink::on(port).await;
    until("all are posted", PATIENCE, async || posts(&sink).len() == 50).await;
    assert!(sink.received().iter().all(|request| request.headers["authorization"] == "Bearer hunter2"));
    eventually("it is ready", PATIENCE, || runtime.is_ready()).await;
    assert_eq!((runtime.total("deadLetters"), runtime.total("possibleDuplicates")), (0, 0));
}

#[tokio::test]
async fn an_address_that_nobody_allowed_is_told_and_not_called() {
    let server = NatsServer::jetstream().await;
    server.make_streams().await;

    let runtime = start(&server, "{url: 'http://169.254.169.254/latest/meta-data'}", Path::new("/nonexistent"));

    eventually("it is told", PATIENCE, || runtime.handler_problem().as_deref() == Some("AddressNotAllowed")).await;
    assert!(!runtime.is_ready());
}
