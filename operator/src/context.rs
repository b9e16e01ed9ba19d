//! What every reconcile works with.

use std::{collections::HashMap, future::Future, sync::Mutex, time::Duration};

use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};

use crate::{build::Settings, error::Error, pace::Memory, probe::Probe, telemetry::Metrics};

/// The time that the API server has for one answer.
const API_TIMEOUT: Duration = Duration::from_secs(15);

/// The field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "millrace-operator";

/// What every reconcile works with.
pub struct Context {
    /// Talks to the API server.
    pub client: Client,
    /// What is the same for all consumers.
    pub settings: Settings,
    /// Asks pods how they are.
    pub probe: Probe,
    /// Writes Kubernetes Events.
    pub recorder: Recorder,
    /// Figures of the operator.
    pub metrics: Metrics,
    /// Failures in a row, by the uid of the object. Only objects that exist and fail have an entry.
    pub failures: Mutex<HashMap<String, u32>>,
    /// What is remembered of consumers that scale by their lag.
    pub memory: Mutex<Memory>,
}

impl Context {
    /// A context over `client`.
    pub fn new(client: Client, settings: Settings, metrics: Metrics) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: std::env::var("POD_NAME").ok() };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            probe: Probe::new(),
            failures: Mutex::default(),
            memory: Mutex::default(),
            client,
            settings,
            metrics,
        }
    }
}

/// Waits for an answer of the API server, for a bounded time. The client itself would wait for ever.
pub async fn answered<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(API_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|source| Error::Api { operation, source: Box::new(source) }),
        Err(_) => Err(Error::TimedOut(operation)),
    }
}
