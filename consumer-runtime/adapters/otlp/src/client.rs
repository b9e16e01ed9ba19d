//! The HTTP client of the exporter. The exporter's thread is none of tokio's, so a request runs on a task.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

/// The time for one request with its answer: the default of the exporter, which expects its client to keep it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of an answer. A collector says little.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// Sends requests on the runtime that it was made on.
#[derive(Clone, Debug)]
pub(crate) struct CollectorClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
}

impl CollectorClient {
    /// A client that trusts the certificate authorities of the system.
    pub(crate) fn new(runtime: Handle) -> Result<Self, std::io::Error> {
        let tls = rustls::ClientConfig::builder().with_native_roots()?.with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), runtime })
    }

    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.client.request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

#[async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sending = self.clone().send(request);
        let task = self.runtime.spawn(async { tokio::time::timeout(TIMEOUT, sending).await });
        task.await??
    }
}
