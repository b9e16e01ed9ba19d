//! All that the operator watches, and what is known of it. A look reads here and asks nobody.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta},
};
use millrace_operator_api::EventConsumer;
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::{
    cache::{Cache, Calls, Entry, Sight},
    context::Context,
    error::Error,
    fields::Interned,
    key::Key,
    known::{Child, Consumer, KnownPod},
    queue::Lane,
    watch::{Selection, Sink, number, watch},
};

/// The label that all children have.
const OURS: &str = "app.kubernetes.io/managed-by=millrace";

/// What is known of everything that is watched.
#[derive(Debug, Default)]
pub struct Caches {
    /// The `EventConsumers`.
    pub consumers: Cache<Consumer>,
    /// Their children, by kind.
    pub service_accounts: Cache<Child>,
    /// Their configurations.
    pub config_maps: Cache<Child>,
    /// Their volumes.
    pub claims_volumes: Cache<Child>,
    /// Their disruption budgets.
    pub pod_disruption_budgets: Cache<Child>,
    /// Their network policies.
    pub network_policies: Cache<Child>,
    /// Their Deployments.
    pub deployments: Cache<Child>,
    /// Their pods.
    pub pods: Cache<KnownPod>,
    /// The fields of the children.
    pub interned: Interned,
}

impl Caches {
    /// Whether everything has been listed, or refused.
    pub fn are_ready(&self) -> bool {
        self.sights().iter().all(|(_, sight)| *sight != Sight::Waiting)
    }

    /// An error when something cannot be seen: what is not known must not be taken for not there.
    pub fn check(&self) -> Result<(), Error> {
        for (what, sight) in self.sights() {
            if let Sight::Refused(why) = sight {
                return Err(Error::Blind { what, why });
            }
        }
        Ok(())
    }

    fn sights(&self) -> [(&'static str, Sight); 8] {
        [
            ("EventConsumers", self.consumers.sight()),
            ("ServiceAccounts", self.service_accounts.sight()),
            ("ConfigMaps", self.config_maps.sight()),
            ("PersistentVolumeClaims", self.claims_volumes.sight()),
            ("PodDisruptionBudgets", self.pod_disruption_budgets.sight()),
            ("NetworkPolicies", self.network_policies.sight()),
            ("Deployments", self.deployments.sight()),
            ("Pods", self.pods.sight()),
        ]
    }
}

/// Starts all watches, in `namespace` or everywhere. They end with the set.
pub fn watch_all(context: &Arc<Context>, namespace: Option<&str>, tasks: &mut JoinSet<()>) {
    let all = |what| Selection { what, labels: None };
    let ours = |what| Selection { what, labels: Some(OURS) };
    let pods = Selection { what: "Pods", labels: Some("app.kubernetes.io/name=consumer-runtime") };
    let mut watches = Watches { context, namespace, tasks };
    watches.start::<DeserializeGuard<EventConsumer>, _>(
        all("EventConsumers"),
        |caches| &caches.consumers,
        |_, object| Consumer::of(object).inspect_err(|error| error!(%error, "an EventConsumer cannot be kept")).ok(),
    );
    watches.children::<ServiceAccount>(ours("ServiceAccounts"), |caches| &caches.service_accounts);
    watches.children::<ConfigMap>(ours("ConfigMaps"), |caches| &caches.config_maps);
    watches.children::<PersistentVolumeClaim>(ours("PersistentVolumeClaims"), |caches| &caches.claims_volumes);
    watches.children::<PodDisruptionBudget>(ours("PodDisruptionBudgets"), |caches| &caches.pod_disruption_budgets);
    watches.children::<NetworkPolicy>(ours("NetworkPolicies"), |caches| &caches.network_policies);
    watches.start::<Deployment, _>(
        ours("Deployments"),
        |caches| &caches.deployments,
        |caches, deployment| Child::of_deployment(deployment, &caches.interned),
    );
    watches.start::<Pod, _>(pods, |caches| &caches.pods, |_, pod| KnownPod::of(pod));
}

struct Watches<'a> {
    context: &'a Arc<Context>,
    namespace: Option<&'a str>,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    /// Watches children of which nothing but the metadata is of interest.
    fn children<K>(&mut self, selection: Selection, cache: fn(&Caches) -> &Cache<Child>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        self.start::<PartialObjectMeta<K>, _>(selection, cache, |caches, object| {
            Child::of(&object.metadata, &caches.interned)
        });
    }

    fn start<K, V>(
        &mut self,
        selection: Selection,
        cache: fn(&Caches) -> &Cache<V>,
        keep: fn(&Caches, K) -> Option<(Key, V)>,
    ) where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + serde::de::DeserializeOwned
            + Send
            + 'static,
        V: Entry + Send + 'static,
    {
        let context = Arc::clone(self.context);
        let api = scoped::<K>(&context.client, self.namespace);
        let name = match self.namespace {
            Some(namespace) => format!("{} in {namespace}", selection.what).into(),
            None => selection.what.into(),
        };
        context.metrics.alive(&name);
        self.tasks.spawn(async move {
            let sink = CacheSink { context: &context, name, cache: cache(&context.caches), keep };
            watch(api, selection, &context.gate, &sink).await;
        });
    }
}

/// The objects of a kind, in `namespace` or everywhere.
pub(crate) fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Puts what a watch tells into a cache, and calls for looks.
struct CacheSink<'a, K, V> {
    context: &'a Context,
    /// For logs, and for its sign of life.
    name: Arc<str>,
    cache: &'a Cache<V>,
    keep: fn(&Caches, K) -> Option<(Key, V)>,
}

impl<K, V: Entry> CacheSink<'_, K, V> {
    fn call(&self, calls: &Calls) {
        for (key, lane) in calls {
            self.context.queue.push(key, *lane);
        }
    }

    /// What can be seen has changed, and with it what can be said of every consumer.
    fn see(&self, sight: Sight) {
        if self.cache.see(sight) {
            for key in self.context.caches.consumers.consumers() {
                self.context.queue.push(&key, Lane::Back);
            }
            self.context.sighted.notify_waiters();
        }
    }
}

impl<K: Resource, V: Entry> Sink<K> for CacheSink<'_, K, V> {
    fn begin(&self) {
        self.cache.begin();
    }

    fn listed(&self, page: Vec<K>) {
        self.cache.listed(page.into_iter().filter_map(|object| (self.keep)(&self.context.caches, object)));
    }

    fn complete(&self, version: u64) {
        self.call(&self.cache.complete(version));
        self.following();
    }

    fn changed(&self, object: K) {
        let key = Key::of(object.meta());
        let version = number(object.meta().resource_version.as_deref().unwrap_or_default());
        let calls = match (self.keep)(&self.context.caches, object) {
            Some((key, entry)) => self.cache.changed(&key, entry),
            None => self.cache.gone(&key, version),
        };
        self.call(&calls);
    }

    fn gone(&self, object: K) {
        let version = number(object.meta().resource_version.as_deref().unwrap_or_default());
        self.call(&self.cache.gone(&Key::of(object.meta()), version));
    }

    fn up_to(&self, version: u64) {
        self.cache.up_to(version);
    }

    fn following(&self) {
        self.see(Sight::Clear);
    }

    fn alive(&self) {
        self.context.metrics.alive(&self.name);
        self.context.gate.answered();
    }

    fn refused(&self, why: &str) {
        warn!(what = &*self.name, why, "the operator may not watch");
        self.see(Sight::Refused(why.to_owned()));
    }
}
