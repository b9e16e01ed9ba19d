//! Handlers for tests, and servers that answer with bytes.

use std::{sync::Arc, time::Duration};

use millrace_core::{
    outcome::{Effect, Failure, FailureClass, Outcome},
    ports::{Context, Handler as _},
};
use millrace_handlers::{ContentMode, HttpHandler, HttpOptions, Reach, ResponsePolicy, SystemResolver, TlsOptions};
use millrace_testkit::sample;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(crate) const CONTEXT: Context<'static> = Context { attempt: 1, hold: None, trace: None };

/// How to post to `url`, where loopback is allowed.
pub(crate) fn options(url: &str) -> HttpOptions {
    HttpOptions {
        url: url.parse().unwrap(),
        reach: Reach::Public,
        allowed: vec!["127.0.0.0/8".parse().unwrap()],
        content_mode: ContentMode::Binary,
        response_policy: ResponsePolicy::Knative,
        signing: None,
        headers: None,
        tls: TlsOptions::default(),
        connections_max: 2,
        attempt_timeout: Duration::from_secs(4),
    }
}

pub(crate) fn handler(options: HttpOptions) -> HttpHandler {
    HttpHandler::new(options, Arc::new(SystemResolver)).unwrap()
}

pub(crate) async fn post(handler: &HttpHandler, id: &str) -> Outcome {
    handler.call(&sample::event(id), &CONTEXT).await
}

/// How a post fails.
pub(crate) async fn failure(handler: &HttpHandler) -> Failure {
    match post(handler, "1").await {
        Outcome::Failed(failure) => failure,
        Outcome::Done | Outcome::NotNeeded | Outcome::Fenced => panic!("it did not fail"),
    }
}

/// Asserts that a post fails in a way that another attempt may heal, with or without a possible effect.
pub(crate) async fn assert_retryable(handler: &HttpHandler, effect: Effect) -> Failure {
    let failure = failure(handler).await;
    assert_eq!((failure.class, failure.effect), (FailureClass::Retryable, effect), "{}", failure.error);
    failure
}

/// A server whose connections are each served by `serve`, after a request was read. It ends with this value.
pub(crate) struct RawServer {
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl RawServer {
    #[allow(clippy::disallowed_methods, reason = "the handle is kept, and ends the task")]
    pub(crate) async fn start<F: Future<Output = ()> + Send>(
        serve: impl Fn(BufReader<TcpStream>) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                if read_request(&mut stream).await {
                    serve(stream).await;
                }
            }
        });
        Self { port, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a request to its end. Whether one came.
pub(crate) async fn read_request(stream: &mut BufReader<TcpStream>) -> bool {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return false;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).await.is_ok()
}
