//! The HTTP side of a runtime: probes, metrics and status.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use millrace_engine::tasks;
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;
use tracing::error;

use crate::report::Reporter;

/// The time that one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `/livez`, `/readyz`, `/metrics` and `/status` on `address`, from when this returns.
pub(crate) async fn serve(address: SocketAddr, reporter: Arc<Reporter>, registry: Arc<Registry>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(reporter)
        .route("/metrics", get(metrics).with_state(registry));
    tasks::spawn("admin", async move {
        if let Err(error) = axum::serve(listener, router).await {
            error!(%error, "the HTTP side ended");
        }
    });
    Ok(())
}

/// Ready means that events are taken: everything works, and no drain has begun.
async fn readyz(State(reporter): State<Arc<Reporter>>) -> impl IntoResponse {
    match reporter.not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn status(State(reporter): State<Arc<Reporter>>) -> impl IntoResponse {
    match tokio::time::timeout(ANSWER_TIMEOUT, reporter.report()).await {
        Ok(report) => Json(report).into_response(),
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
