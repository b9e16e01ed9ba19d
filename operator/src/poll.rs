//! Asks the pods of consumers how they are, apart from the looks at those consumers: a pod that is slow to answer holds up
//! no edit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use millrace_config::status::StatusReport;
use tokio::time::Instant;

use crate::{context::Context, key::Key, queue::Lane};

/// Most consumers whose pods are asked at once. A pod that does not answer takes two seconds.
pub const CONCURRENCY: usize = 32;

/// How soon pods are asked again while their consumer is not ready or scales by what they say, and when it is.
pub const UNSETTLED_INTERVAL: Duration = Duration::from_secs(3);
/// See [`UNSETTLED_INTERVAL`].
pub const SETTLED_INTERVAL: Duration = Duration::from_secs(10);

/// What the pods of consumers have said last. Only consumers that have pods have an entry.
#[derive(Debug, Default)]
pub struct Reports(Mutex<HashMap<Key, Answers>>);

/// What the pods of one consumer have said.
#[derive(Clone, Debug)]
pub struct Answers {
    /// When they were asked.
    pub asked: Instant,
    /// By the uid of the pod.
    by_pod: HashMap<String, StatusReport>,
}

impl Answers {
    /// What this pod has said, if it did.
    pub fn of(&self, pod: &Pod) -> Option<StatusReport> {
        self.by_pod.get(pod.metadata.uid.as_deref()?).cloned()
    }
}

impl Reports {
    /// What the pods of `consumer` have said last; nothing before they were asked.
    pub fn get(&self, consumer: &Key) -> Option<Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(consumer).cloned()
    }

    /// Forgets what they have said: there are none any more.
    pub fn forget(&self, consumer: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(consumer);
    }

    fn set(&self, consumer: &Key, answers: Answers) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(consumer.clone(), answers);
    }
}

/// Whether a pod can be asked. One that is not ready can: it says why.
pub fn can_be_asked(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running") && status.pod_ip.is_some())
}

/// Asks the pods of a consumer, and has it looked at with what they said. That look decides when they are asked again.
pub async fn poll(context: Arc<Context>, consumer: Key) {
    let known = context.caches.pods.of(&consumer);
    let pods: Vec<Pod> = known.iter().filter_map(|(_, pod)| pod.pod().ok()).filter(can_be_asked).collect();
    if pods.is_empty() {
        context.reports.forget(&consumer);
        return;
    }
    let asked = Instant::now();
    let reports = context.probe.reports(&pods).await;
    let uids = pods.into_iter().map(|pod| pod.metadata.uid.unwrap_or_default());
    let by_pod = uids.zip(reports).filter_map(|(uid, report)| Some((uid, report?))).collect();
    context.reports.set(&consumer, Answers { asked, by_pod });
    context.queue.push(&consumer, Lane::Back);
}
