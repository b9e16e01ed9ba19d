//! The HTTP side of the operator: probes and metrics.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;

use crate::telemetry::Metrics;

/// Seconds without an answer to one of the watches after which the operator wants to be restarted. Each is made anew after
/// a minute, so a quiet one has an answer by then.
const SILENCE_MAX_SECONDS: i64 = 120;

/// Serves `/livez`, `/readyz` and `/metrics` for as long as it runs.
pub async fn serve(listener: TcpListener, metrics: Metrics) -> io::Result<()> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let router = Router::new()
        .route("/livez", get(livez).with_state(metrics))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/metrics", get(encode).with_state(Arc::new(registry)));
    axum::serve(listener, router).await
}

/// Binds the address, so that an error is known before anything is watched.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn livez(State(metrics): State<Metrics>) -> impl IntoResponse {
    match metrics.most_silent().filter(|(_, silent)| *silent > SILENCE_MAX_SECONDS) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some((watch, silent)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the watch of {watch} has been silent for {silent} s\n"))
        }
    }
}

async fn encode(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], body).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
