//! Step 1: what is there now, as the watches know it. No request, but where nothing is known of what is to be destroyed.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use millrace_config::status::StatusReport;

use crate::{
    build::{CONSUMER_LABEL, claims_volume},
    context::{Context, answered},
    error::Error,
    key::Key,
    known::Child,
    validate::Valid,
};

/// The children that exist.
#[derive(Clone, Debug, Default)]
pub struct Children {
    /// The identity of the pods.
    pub service_account: Option<Child>,
    /// Their configuration.
    pub config_map: Option<Child>,
    /// The volume of the embedded store.
    pub claims_volume: Option<Child>,
    /// Their disruption budget.
    pub pod_disruption_budget: Option<Child>,
    /// What their network lets through.
    pub network_policy: Option<Child>,
    /// The Deployment.
    pub deployment: Option<Child>,
}

/// The children of a consumer.
pub fn children(context: &Context, valid: &Valid) -> Result<Children, Error> {
    let caches = &context.caches;
    caches.check()?;
    let key = Key::new(&valid.namespace, &valid.name);
    Ok(Children {
        service_account: caches.service_accounts.get(&key),
        config_map: caches.config_maps.get(&key),
        claims_volume: caches.claims_volumes.get(&Key::new(&valid.namespace, &claims_volume::name(valid))),
        pod_disruption_budget: caches.pod_disruption_budgets.get(&key),
        network_policy: caches.network_policies.get(&key),
        deployment: caches.deployments.get(&key),
    })
}

/// The pods of a consumer, each with what it has said last, and when they were asked.
pub struct Pods {
    /// Each with its report, if it gave one.
    pub pods: Vec<(Pod, Option<StatusReport>)>,
    /// When they were asked; nothing when that is still to come.
    pub asked: Option<tokio::time::Instant>,
}

/// The pods of a consumer, and what they have said.
pub fn pods(context: &Context, consumer: &Key) -> Result<Pods, Error> {
    let known = context.caches.pods.of(consumer);
    let pods: Vec<Pod> = known.iter().map(|(_, pod)| pod.pod()).collect::<Result<_, _>>()?;
    let answers = context.reports.get(consumer);
    let report = |pod: &Pod| answers.as_ref().and_then(|answers| answers.of(pod));
    let pods = pods.into_iter().map(|pod| {
        let report = report(&pod);
        (pod, report)
    });
    Ok(Pods { pods: pods.collect(), asked: answers.as_ref().map(|answers| answers.asked) })
}

/// Whether the consumer has pods now, by the API server's word: what cannot be undone does not rely on a watch.
pub async fn has_pods(context: &Context, valid: &Valid) -> Result<bool, Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &valid.namespace);
    let selected = ListParams::default().labels(&format!("{CONSUMER_LABEL}={}", valid.name));
    // Those that have ended stay until somebody takes them away.
    let selected = selected.fields("status.phase!=Failed,status.phase!=Succeeded").limit(1);
    Ok(!answered("list the pods", pods.list_metadata(&selected)).await?.items.is_empty())
}
