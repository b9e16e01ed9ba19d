//! A pod that is only told of: an object on the API server, and a status report at its address.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, Ordering},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use millrace_config::status::StatusReport;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

/// A pod that is only told of. Its address is one of the loopback network, so that each has port 8080 to itself.
pub struct FakePod {
    api: Api<Pod>,
    name: String,
    report: Arc<Mutex<StatusReport>>,
    server: JoinHandle<()>,
}

impl FakePod {
    /// A pod of `consumer`, which reports `report`.
    pub async fn start(client: Client, namespace: &str, consumer: &str, report: StatusReport) -> Self {
        let address = address();
        let listener = TcpListener::bind((address.as_str(), 8080)).await.unwrap();
        let report = Arc::new(Mutex::new(report));
        let server = tokio::spawn(serve(listener, Arc::clone(&report)));
        let api: Api<Pod> = Api::namespaced(client, namespace);
        let name = format!("{consumer}-{}", address.replace('.', "-"));
        let pod = json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "consumer-runtime", "millrace.dev/consumer": consumer}},
            "spec": {"containers": [{"name": "consumer-runtime", "image": "none"}]},
        });
        api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        Self { api, name, report, server }
    }

    /// From now on it reports this.
    pub fn reports(&self, report: StatusReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// It is gone.
    pub async fn delete(self) {
        self.api.delete(&self.name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}

/// An address of the loopback network that no other test on this machine uses.
fn address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id().to_be_bytes();
    format!("127.{}.{}.{}", pid[2].max(1), pid[3], NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Drop for FakePod {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, report: Arc<Mutex<StatusReport>>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let body = serde_json::to_string(&*report.lock().unwrap_or_else(PoisonError::into_inner)).unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut request = [0_u8; 1024];
        // Who asks reads the answer or goes away; neither matters here.
        drop(stream.read(&mut request).await);
        drop(stream.write_all(answer.as_bytes()).await);
    }
}
