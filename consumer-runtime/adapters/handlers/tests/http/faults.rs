//! Receivers that are away, break off, never end or say too much.

use std::time::{Duration, Instant};

use millrace_core::{
    health::TroubleReason,
    outcome::{Effect, Outcome},
    ports::Handler as _,
};
use millrace_handlers::{HttpOptions, ResponsePolicy};
use millrace_testkit::{http_sink::HttpSink, nats_server::free_port};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::support::{RawServer, assert_retryable, handler, options, post, read_request};

/// Writes until the other side has closed.
async fn write_for_ever(stream: &mut BufReader<TcpStream>, bytes: &[u8], pause: Duration) {
    while stream.write_all(bytes).await.is_ok() {
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test]
async fn a_receiver_that_is_away_has_got_nothing_and_is_used_when_it_is_back() {
    let sink = HttpSink::start().await;
    let port = sink.port();
    let handler = handler(options(&sink.url()));
    assert_eq!(post(&handler, "1").await, Outcome::Done);
    let mut witness = TcpStream::connect(("127.0.0.1", port)).await.unwrap();

    drop(sink);
    // Its connections were made in this order, and are closed in it.
    drop(witness.read_u8().await.unwrap_err());
    // The first attempt finds its open connection closed, the second finds nobody.
    for _ in 0..2 {
        assert_retryable(&handler, Effect::None).await;
    }
    assert_eq!(handler.check().await.unwrap_err().reason, TroubleReason::Unreachable);

    let sink = HttpSink::on(port).await;
    handler.check().await.unwrap();
    assert_eq!(post(&handler, "2").await, Outcome::Done);
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn a_connection_that_the_receiver_closes_after_each_answer_costs_no_attempt() {
    let server = RawServer::start(async |mut stream| {
        stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
    })
    .await;
    let handler = handler(options(&server.url()));

    for _ in 0..5 {
        assert_eq!(post(&handler, "1").await, Outcome::Done);
    }
}

#[tokio::test]
async fn a_name_that_is_not_known_is_told() {
    let handler = handler(options("http://no-such-host.invalid/hook?token=s3cret"));

    let trouble = handler.check().await.unwrap_err();

    assert_eq!(trouble.reason, TroubleReason::Unreachable);
    assert!(trouble.message.contains("no-such-host.invalid") && !trouble.message.contains("s3cret"), "{trouble}");
    assert_retryable(&handler, Effect::None).await;
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_leaves_open_what_happened() {
    for answer in ["", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\ncontent-le", "SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n\r\n"] {
        let reset = RawServer::start(move |mut stream: BufReader<TcpStream>| async move {
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.get_ref().set_zero_linger().unwrap();
        })
        .await;
        let closed = RawServer::start(move |mut stream: BufReader<TcpStream>| async move {
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        for server in [reset, closed] {
            assert_retryable(&handler(options(&server.url())), Effect::Possible).await;
        }
    }
}

#[tokio::test]
async fn headers_without_end_are_no_answer() {
    let header = format!("x-a: {}\r\n", "a".repeat(1000));
    let many = "x-b: b\r\n".repeat(500);
    for headers in [header.repeat(200), many] {
        let server = RawServer::start(move |mut stream: BufReader<TcpStream>| {
            let answer = format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n");
            async move { drop(stream.write_all(answer.as_bytes()).await) }
        })
        .await;
        let failure = assert_retryable(&handler(options(&server.url())), Effect::Possible).await;
        assert!(failure.error.len() < 400 && !failure.error.contains("aaaa"), "{}", failure.error);
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_and_what_the_code_said_holds() {
    for (bytes, pause) in [(vec![b'x'; 8192], Duration::ZERO), (vec![b'x'], Duration::from_millis(20))] {
        let server = RawServer::start(move |mut stream: BufReader<TcpStream>| {
            let bytes = bytes.clone();
            async move {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\n").await.unwrap();
                write_for_ever(&mut stream, &bytes, pause).await;
            }
        })
        .await;
        let handler = handler(options(&server.url()));
        let started = Instant::now();
        for _ in 0..2 {
            assert_eq!(post(&handler, "1").await, Outcome::Done);
        }
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn where_the_body_decides_it_is_waited_for_until_the_attempt_is_cut() {
    let server = RawServer::start(async |mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
        write_for_ever(&mut stream, b" ", Duration::from_millis(20)).await;
    })
    .await;
    let drip = handler(HttpOptions { response_policy: ResponsePolicy::Dapr, ..options(&server.url()) });
    tokio::time::timeout(Duration::from_millis(500), post(&drip, "1")).await.unwrap_err();

    let server = RawServer::start(async |mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"status\"").await.unwrap();
    })
    .await;
    let broken = handler(HttpOptions { response_policy: ResponsePolicy::Dapr, ..options(&server.url()) });
    assert_retryable(&broken, Effect::Possible).await;

    let server = RawServer::start(async |mut stream| {
        let body = format!(r#"{{"status":"DROP","more":"{}"}}"#, "x".repeat(100_000));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        drop(stream.write_all(answer.as_bytes()).await);
        drop(stream.read_u8().await);
    })
    .await;
    let large = handler(HttpOptions { response_policy: ResponsePolicy::Dapr, ..options(&server.url()) });
    assert_eq!(post(&large, "1").await, Outcome::Done, "a body that is too large says nothing");
}

#[tokio::test]
async fn announcements_without_end_are_cut_with_the_attempt_and_close_the_connection() {
    let server = RawServer::start(async |mut stream| {
        write_for_ever(&mut stream, b"HTTP/1.1 103 Early Hints\r\n\r\n", Duration::from_millis(1)).await;
    })
    .await;
    let handler = handler(options(&server.url()));

    for _ in 0..2 {
        // The second connection is served only because the first was closed.
        tokio::time::timeout(Duration::from_millis(300), post(&handler, "1")).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_receiver_that_takes_no_connection_is_given_up_within_half_of_the_attempt() {
    // Nobody accepts, and the queue of the socket is full: the next connection is never made.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("127.0.0.1:{}", free_port()).parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(stream);
    }
    let handler =
        handler(HttpOptions { attempt_timeout: Duration::from_secs(1), ..options(&format!("http://{address}/")) });

    let started = Instant::now();
    assert_retryable(&handler, Effect::None).await;

    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(handler.check().await.unwrap_err().reason, TroubleReason::Unreachable);
}

#[tokio::test]
async fn a_request_may_follow_another_on_a_connection_that_is_kept() {
    let server = RawServer::start(async |mut stream| {
        let mut served = 0;
        loop {
            served += 1;
            let last = if served == 3 { "connection: close\r\n" } else { "" };
            let answer = format!("HTTP/1.1 200 OK\r\n{last}content-length: 1\r\n\r\n{served}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            if served == 3 || !read_request(&mut stream).await {
                return;
            }
        }
    })
    .await;
    let handler = handler(options(&server.url()));

    for _ in 0..7 {
        assert_eq!(post(&handler, "1").await, Outcome::Done);
    }
}
