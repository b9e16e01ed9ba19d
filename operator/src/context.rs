//! What every reconcile works with.

use std::{collections::HashMap, future::Future, sync::Mutex, time::Duration};

use kube::{
    Client,
    api::PatchParams,
    runtime::events::{Recorder, Reporter},
};

use tokio::sync::Notify;

use crate::{
    build::Settings, caches::Caches, error::Error, gate::Gate, key::Key, pace::Memory, poll::Reports, probe::Probe,
    queue::Queue, telemetry::Metrics, wake::Wake,
};

/// The time that the API server has for one answer.
const API_TIMEOUT: Duration = Duration::from_secs(15);

/// The field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "millrace-operator";

/// How everything is applied. Unless told not to, the API server parses each write a second time, to warn of fields that it
/// does not know or finds twice: here nobody is warned.
pub fn applying() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force().validation_ignore()
}

/// What every reconcile works with.
pub struct Context {
    /// Talks to the API server.
    pub client: Client,
    /// What is the same for all consumers.
    pub settings: Settings,
    /// What is known of everything that is watched.
    pub caches: Caches,
    /// Wakes who waits for the first lists.
    pub sighted: Notify,
    /// Consumers to look at.
    pub queue: Queue,
    /// Consumers whose pods are to be asked how they are.
    pub polls: Queue,
    /// What they have said.
    pub reports: Reports,
    /// Whether the API server can be asked.
    pub gate: Gate,
    /// Asks pods how they are.
    pub probe: Probe,
    /// Writes Kubernetes Events.
    pub recorder: Recorder,
    /// Figures of the operator.
    pub metrics: Metrics,
    /// Failures in a row. Only consumers that exist and fail have an entry.
    pub failures: Mutex<HashMap<Key, u32>>,
    /// What is known of consumers that may have no pods.
    pub wake: Wake,
    /// What is remembered of consumers that scale by their lag.
    pub memory: Mutex<Memory>,
}

impl Context {
    /// A context over `client`.
    pub fn new(client: Client, settings: Settings, metrics: Metrics) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: std::env::var("POD_NAME").ok() };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            caches: Caches::default(),
            sighted: Notify::new(),
            queue: Queue::default(),
            polls: Queue::default(),
            reports: Reports::default(),
            gate: Gate::default(),
            probe: Probe::new(),
            wake: Wake::disabled(),
            failures: Mutex::default(),
            memory: Mutex::default(),
            client,
            settings,
            metrics,
        }
    }

    /// The same, with a way to consumers that have no pods.
    #[must_use]
    pub fn with_wake(self, wake: Wake) -> Self {
        Self { wake, ..self }
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
