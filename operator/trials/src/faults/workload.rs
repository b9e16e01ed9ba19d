//! What users do, and how it stands when the operator is done with it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, NamespaceResourceScope},
};
use millrace_operator_api::{DeadLetterReplay, EventConsumer};
use operator::replay::status::has_ended;
use serde_json::{Value, json};

use super::rights::Right;

/// The name of the consumer.
pub const NAME: &str = "order-log";

/// The name of what puts its dead letters back.
pub const REPLAY: &str = "again";

/// What a user does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Workload {
    /// Makes a consumer.
    Create,
    /// Changes its configuration.
    Edit,
    /// Changes its number of pods.
    Scale,
    /// Stops it.
    Stop,
    /// Puts its dead letters back.
    Replay,
    /// Deletes it together with its durable.
    Delete,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Create, Self::Edit, Self::Scale, Self::Stop, Self::Replay, Self::Delete];
}

/// A namespace with one consumer.
#[derive(Clone)]
pub struct Shop {
    /// Of somebody who may do everything.
    pub client: Client,
    /// Its name.
    pub namespace: String,
}

impl Shop {
    /// What has to be there before.
    pub async fn prepare(&self, workload: Workload) {
        if workload != Workload::Create {
            self.apply(json!({})).await;
        }
    }

    /// What the user does.
    pub async fn carry_out(&self, workload: Workload) {
        match workload {
            Workload::Create => self.apply(json!({})).await,
            Workload::Edit => self.set_workers(17).await,
            Workload::Scale => self.apply(json!({"replicas": 3})).await,
            Workload::Stop => self.apply(json!({"runState": "Stopped"})).await,
            Workload::Replay => self.replay().await,
            Workload::Delete => {
                drop(self.consumers().delete(NAME, &DeleteParams::default()).await.unwrap());
            }
        }
    }

    /// Makes a consumer that keeps its claims on a volume of its own.
    pub async fn make_with_volume(&self) {
        let store = json!({"embedded": {"volumeClaim": {"size": "1Gi"}}});
        self.apply(json!({"replicas": 1, "idempotency": {"store": store}})).await;
    }

    /// Gives it another number of workers.
    pub async fn set_workers(&self, workers: u32) {
        self.apply(json!({"workers": workers})).await;
    }

    /// Has its pods restricted to what it names, or not.
    pub async fn set_network_policy(&self, restricted: bool) {
        let mode = if restricted { "Restricted" } else { "None" };
        self.apply(json!({"networkPolicy": {"mode": mode}})).await;
    }

    /// Does what an operator needs a right for.
    pub async fn need(&self, right: Right) {
        match right {
            ("eventconsumers", "patch") => self.keep_durable().await,
            ("networkpolicies", "delete") => self.set_network_policy(false).await,
            ("serviceaccounts", _) => self.lose::<ServiceAccount>().await,
            // The consumer is looked at before a child of it is written.
            ("eventconsumers", "get") | ("configmaps", _) => self.lose::<ConfigMap>().await,
            ("poddisruptionbudgets", _) => self.lose::<PodDisruptionBudget>().await,
            ("networkpolicies", _) => self.lose::<NetworkPolicy>().await,
            ("deployments", _) => self.lose::<Deployment>().await,
            _ => panic!("nothing is known that needs {right:?}"),
        }
    }

    /// Deletes a child, which is to be made again.
    async fn lose<K>(&self)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        drop(self.untyped::<K>().delete(NAME, &DeleteParams::default()).await.unwrap());
    }

    /// Asks for its durable to be kept, which takes a finalizer off it.
    pub async fn keep_durable(&self) {
        self.apply(json!({"broker": {"jetStream": {"servers": ["nats://nats.nats.svc:4222"], "stream": "ORDERS"}}}))
            .await;
    }

    /// What a user does who cannot decide: does it, takes it back, and does it again.
    pub async fn waver(&self, workload: Workload) {
        if matches!(workload, Workload::Edit | Workload::Scale | Workload::Stop) {
            self.carry_out(workload).await;
            self.apply(json!({})).await;
        }
        self.carry_out(workload).await;
    }

    /// Whether the operator has nothing left to do.
    pub async fn is_done(&self) -> bool {
        let replays = self.api::<DeadLetterReplay>().list(&ListParams::default()).await.unwrap().items;
        if !replays.iter().all(has_ended) {
            return false;
        }
        let Some(object) = self.consumers().get_opt(NAME).await.unwrap() else { return true };
        let observed = object.status.as_ref().and_then(|status| status.observed_generation);
        // The first word about it comes before its children, of which the Deployment is the last.
        let is_made = self.api::<Deployment>().get_metadata_opt(NAME).await.unwrap().is_some();
        is_made && object.metadata.deletion_timestamp.is_none() && observed == object.metadata.generation
    }

    /// Whether the consumer is there.
    pub async fn is_there(&self) -> bool {
        self.consumers().get_metadata_opt(NAME).await.unwrap().is_some()
    }

    /// Does what the cluster would: lets the Jobs that delete the durable and put letters back succeed.
    pub async fn complete_job(&self) {
        let jobs = self.api::<Job>();
        for job in jobs.list(&ListParams::default()).await.unwrap().items {
            let status = job.status.unwrap_or_default();
            if status.completion_time.is_some() {
                continue;
            }
            let now = "2026-01-01T00:00:00Z";
            let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "Test", "message": "m", "lastTransitionTime": now});
            let conditions = [condition("SuccessCriteriaMet"), condition("Complete")];
            let status = json!({"startTime": now, "completionTime": now, "conditions": conditions});
            let name = job.metadata.name.unwrap();
            let patch = Patch::Merge(json!({"status": status}));
            jobs.patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
        }
    }

    /// Everything that there is, without what differs from run to run.
    pub async fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        self.add::<EventConsumer>(&mut state).await;
        self.add::<DeadLetterReplay>(&mut state).await;
        self.add::<ServiceAccount>(&mut state).await;
        self.add::<ConfigMap>(&mut state).await;
        self.add::<PodDisruptionBudget>(&mut state).await;
        self.add::<Deployment>(&mut state).await;
        self.add::<Job>(&mut state).await;
        state
    }

    async fn add<K>(&self, state: &mut BTreeMap<String, String>)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        for object in self.untyped::<K>().list(&ListParams::default()).await.unwrap().items {
            let name = object.metadata.name.clone().unwrap_or_default();
            let mut value = serde_json::to_value(&object).unwrap();
            mask(&mut value);
            state.insert(format!("{}/{name}", K::kind(&())), value.to_string().replace(&self.namespace, "NAMESPACE"));
        }
    }

    async fn apply(&self, spec: Value) {
        let mut object: Value = serde_yaml::from_str(include_str!("../../../../deploy/examples/log.yaml")).unwrap();
        object["spec"]["broker"]["jetStream"]["deletionPolicy"] = json!("Delete");
        object["spec"]["replicas"] = json!(2);
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        self.consumers().patch(NAME, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    }

    async fn replay(&self) {
        // Without a time it would be that at which it is made, and another one in each run.
        let spec = json!({"consumerRef": {"name": NAME}, "filter": {"toTime": "2026-01-01T00:00:00Z"}});
        let replay = DeadLetterReplay::new(REPLAY, serde_json::from_value(spec).unwrap());
        self.api().create(&PostParams::default(), &replay).await.unwrap();
    }

    fn consumers(&self) -> Api<EventConsumer> {
        self.api()
    }

    fn untyped<K>(&self) -> Api<DynamicObject>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::erase::<K>(&()))
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// Names that are given anew in each run, times, how often something was written, and the hashes of what has such a name in
/// it, which is compared itself.
fn mask(value: &mut Value) {
    const MASKED: [&str; 14] = [
        "batch.kubernetes.io/controller-uid",
        "controller-uid",
        "creationTimestamp",
        "generation",
        "lastTransitionTime",
        "managedFields",
        "millrace.dev/applied-hash",
        "millrace.dev/config-hash",
        "observedGeneration",
        "observedTime",
        "resourceVersion",
        "startTime",
        "time",
        "uid",
    ];
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !MASKED.contains(&name.as_str()));
            fields.values_mut().for_each(mask);
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// A moment in which nothing is written means that nothing is going to be.
pub const QUIET: Duration = Duration::from_millis(1_500);
