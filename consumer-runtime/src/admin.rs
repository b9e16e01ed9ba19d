//! The HTTP side of a runtime: probes, metrics and status.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use millrace_engine::tasks;
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::report::Reporter;

/// The bounds of a process: more than probes, a scraper and the operator need at once, and little memory.
const LIMITS: Limits = Limits { connections_max: 16, connection_time: Duration::from_secs(5) };

/// Most bytes of a request's head, and of an answer on its way.
const BUFFER_BYTES: usize = 8 * 1024;

/// The pause after a connection could not be taken: most likely there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What others may take of this process by way of HTTP.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Most connections at once. More wait until one ends.
    connections_max: usize,
    /// The time that a connection may take, from its beginning to the end of its one answer.
    connection_time: Duration,
}

/// Serves `/livez`, `/readyz`, `/metrics` and `/status` on `address`, from when this returns.
pub(crate) async fn serve(address: SocketAddr, reporter: Arc<Reporter>, registry: Arc<Registry>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(Arc::clone(&reporter))
        .route("/metrics", get(metrics).with_state((reporter, registry)));
    tasks::spawn("admin", accept(listener, router, LIMITS));
    Ok(())
}

/// Answers for ever.
async fn accept(listener: TcpListener, router: Router, limits: Limits) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections_max => match accepted {
                Ok((stream, _)) => { connections.spawn(answer(stream, router.clone(), limits)); }
                Err(error) => {
                    warn!(%error, "failed to take a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Answers one request and closes the connection.
async fn answer(stream: TcpStream, router: Router, limits: Limits) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(limits.connection_time, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection broke"),
        Err(_) => debug!("a connection took too long"),
    }
}

/// Ready means that events are taken: everything works, and no drain has begun.
async fn readyz(State(reporter): State<Arc<Reporter>>) -> impl IntoResponse {
    match reporter.not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn status(State(reporter): State<Arc<Reporter>>) -> impl IntoResponse {
    Json(reporter.report().await)
}

async fn metrics(State((reporter, registry)): State<(Arc<Reporter>, Arc<Registry>)>) -> impl IntoResponse {
    reporter.refresh().await;
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn connections_that_say_nothing_keep_nobody_else_waiting_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/livez", get(|| async { "ok\n" }));
        let limits = Limits { connections_max: 2, connection_time: Duration::from_millis(100) };
        let server = tasks::spawn("admin", accept(listener, router, limits));
        let silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];

        let mut prober = TcpStream::connect(address).await.unwrap();
        prober.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut reply = String::new();
        timeout(Duration::from_secs(10), prober.read_to_string(&mut reply)).await.unwrap().unwrap();

        assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.ends_with("ok\n"), "{reply}");
        drop(silent);
        server.abort();
    }
}
