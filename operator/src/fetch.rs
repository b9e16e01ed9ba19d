//! Step 1: what is there now. IO only.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, api::ListParams};

use crate::{
    build::{CONSUMER_LABEL, claims_volume},
    context::{Context, answered},
    error::Error,
    validate::Valid,
};

/// Most pods of a consumer that are looked at: more than it may have, for a moment, during a rolling update.
const PODS_MAX: u32 = 250;

/// The children that exist.
#[derive(Clone, Debug, Default)]
pub struct Children {
    /// The identity of the pods.
    pub service_account: Option<ServiceAccount>,
    /// Their configuration.
    pub config_map: Option<ConfigMap>,
    /// The volume of the embedded store; looked for only where there is to be one.
    pub claims_volume: Option<PersistentVolumeClaim>,
    /// Their disruption budget.
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
    /// The Deployment.
    pub deployment: Option<Deployment>,
}

/// The children of a consumer.
pub async fn children(context: &Context, valid: &Valid) -> Result<Children, Error> {
    let (client, namespace, name) = (&context.client, valid.namespace.as_str(), valid.name.as_str());
    let service_accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), namespace);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let claims_volume = async {
        if claims_volume::embedded(valid).is_none() {
            return Ok(None);
        }
        let volumes: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        answered("get the PersistentVolumeClaim", volumes.get_opt(&claims_volume::name(valid))).await
    };
    let (service_account, config_map, claims_volume, pod_disruption_budget, deployment) = tokio::try_join!(
        answered("get the ServiceAccount", service_accounts.get_opt(name)),
        answered("get the ConfigMap", config_maps.get_opt(name)),
        claims_volume,
        answered("get the PodDisruptionBudget", budgets.get_opt(name)),
        answered("get the Deployment", deployments.get_opt(name)),
    )?;
    Ok(Children { service_account, config_map, claims_volume, pod_disruption_budget, deployment })
}

/// The pods of the consumer `name`.
pub async fn pods(context: &Context, namespace: &str, name: &str) -> Result<Vec<Pod>, Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let selected = ListParams::default().labels(&format!("{CONSUMER_LABEL}={name}")).limit(PODS_MAX);
    Ok(answered("list the pods", pods.list(&selected)).await?.items)
}
