//! Asks the pods of a consumer how they are.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use millrace_config::status::StatusReport;
use tokio::{net::TcpStream, sync::Semaphore};

/// The time that a pod has for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Largest answer that is read.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// Most pods asked at once, over all consumers.
const CONCURRENCY: usize = 32;

/// Where a runtime serves its status.
const PORT: u16 = 8080;

/// Asks pods for their `/status`.
#[derive(Clone, Debug)]
pub struct Probe {
    slots: Arc<Semaphore>,
}

impl Default for Probe {
    fn default() -> Self {
        Self::new()
    }
}

impl Probe {
    /// A probe with its own bound of concurrency.
    pub fn new() -> Self {
        Self { slots: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    /// The reports of the pods, in their order; `None` for one that does not answer.
    pub async fn reports(&self, pods: &[Pod]) -> Vec<Option<StatusReport>> {
        join_all(pods.iter().map(|pod| self.report(pod))).await
    }

    async fn report(&self, pod: &Pod) -> Option<StatusReport> {
        let address = pod.status.as_ref()?.pod_ip.clone()?;
        let _slot = self.slots.acquire().await.ok()?;
        tokio::time::timeout(ANSWER_TIMEOUT, ask(&address)).await.ok()?
    }
}

async fn ask(address: &str) -> Option<StatusReport> {
    let stream = TcpStream::connect((address, PORT)).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/status").header("host", address).body(Empty::<Bytes>::new()).ok()?;
    let asking = async {
        let answer = sender.send_request(request).await.ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    };
    // The connection must be driven while its answer is awaited. The pod may close it before the answer is read to its
    // end, so its end says nothing; the time limit ends a wait in vain.
    let driving = async {
        drop(connection.await);
        std::future::pending::<Option<StatusReport>>().await
    };
    tokio::select! {
        report = asking => report,
        nothing = driving => nothing,
    }
}
