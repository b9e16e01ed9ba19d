//! Rights that are taken away, one at a time: a condition names what is missing, and all is well when it is back.

use std::time::{Duration, Instant};

use k8s_openapi::api::rbac::v1::PolicyRule;
use millrace_operator_api::DeadLetterReplay;
use millrace_operator_testkit::{ApiServer, wait_for};

use super::{
    Tally,
    layer::Faults,
    plans::Running,
    ready::{MENDED, NAMED, ready, ready_of},
    workload::{NAME, REPLAY, Shop, Workload},
};

/// A resource, and a verb on it.
pub type Right = (&'static str, &'static str);

/// Those that are used when something changes.
pub const AT_WORK: [Right; 13] = [
    ("serviceaccounts", "create"),
    ("serviceaccounts", "patch"),
    ("configmaps", "create"),
    ("configmaps", "patch"),
    ("poddisruptionbudgets", "create"),
    ("poddisruptionbudgets", "patch"),
    ("deployments", "create"),
    ("deployments", "patch"),
    ("networkpolicies", "create"),
    ("networkpolicies", "patch"),
    ("networkpolicies", "delete"),
    ("eventconsumers", "get"),
    ("eventconsumers", "patch"),
];

/// Those that are used when a consumer is deleted together with its durable.
pub const AT_DELETION: [Right; 4] = [("pods", "list"), ("jobs", "get"), ("jobs", "create"), ("jobs", "patch")];

/// Those that are used when a consumer is made that has a volume.
pub const AT_CREATION: [Right; 2] = [("persistentvolumeclaims", "create"), ("persistentvolumeclaims", "patch")];

/// Those that are used when dead letters are put back.
pub const AT_REPLAY: [Right; 6] = [
    ("jobs", "get"),
    ("deadletterreplays", "get"),
    ("eventconsumers", "get"),
    ("configmaps", "get"),
    ("jobs", "create"),
    ("pods", "list"),
];

/// Those without which an operator that starts does not see everything.
pub const AT_START: [Right; 14] = [
    ("serviceaccounts", "list"),
    ("serviceaccounts", "watch"),
    ("configmaps", "list"),
    ("configmaps", "watch"),
    ("persistentvolumeclaims", "list"),
    ("persistentvolumeclaims", "watch"),
    ("poddisruptionbudgets", "list"),
    ("poddisruptionbudgets", "watch"),
    ("networkpolicies", "list"),
    ("networkpolicies", "watch"),
    ("deployments", "list"),
    ("deployments", "watch"),
    ("pods", "list"),
    ("pods", "watch"),
];

/// What an operator does but once for an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    /// Makes what a consumer with a volume needs.
    MakeWithVolume,
    /// Puts dead letters back.
    Replay,
    /// Deletes a consumer together with its durable.
    Delete,
}

/// Takes each of these rights away from an operator that works, and from one that starts.
pub async fn run(at_work: &[Right], at_start: &[Right]) -> Tally {
    let server = ApiServer::start().await;
    server.grant("operator", None, &operator::rbac::rules()).await;
    server.make_namespace("shop").await;
    let shop = Shop { client: server.client(), namespace: "shop".to_owned() };
    let operator = Running::start(&server, &shop, Faults::default());
    shop.carry_out(Workload::Create).await;
    let mut tally = Tally::default();
    for &right in at_work {
        shop.set_network_policy(true).await;
        wait_for("everything is there", MENDED, || async { shop.is_done().await.then_some(()) }).await;
        server.grant("operator", None, &without(right)).await;
        shop.need(right).await;
        let named = named_and_mended(&server, &shop, right).await;
        tally.count(&format!("{right:?} taken away at work"), named);
    }
    drop(operator.kill().await);
    for &right in at_start {
        server.grant("operator", None, &without(right)).await;
        let operator = Running::start(&server, &shop, Faults::default());
        let named = named_and_mended(&server, &shop, right).await;
        tally.count(&format!("{right:?} missing at the start"), named);
        drop(operator.kill().await);
    }
    tally
}

/// Takes each of these rights away from an operator, and then has it do this, each in a namespace of its own.
pub async fn run_first(task: Task, rights: &[Right]) -> Tally {
    let server = ApiServer::start().await;
    let mut tally = Tally::default();
    for (number, &right) in rights.iter().enumerate() {
        server.grant("operator", None, &operator::rbac::rules()).await;
        let shop = Shop { client: server.client(), namespace: format!("shop-{number}") };
        server.make_namespace(&shop.namespace).await;
        let operator = Running::start(&server, &shop, Faults::default());
        task.prepare(&shop).await;
        server.grant("operator", None, &without(right)).await;
        task.start(&shop).await;
        let named = until(NAMED, || task.tells(&shop, "False Forbidden", names(right))).await;
        server.grant("operator", None, &operator::rbac::rules()).await;
        let ended = until(MENDED, || task.ends(&shop)).await;
        tally.count(&format!("{right:?} missing when {task:?} begins"), named.and(ended));
        drop(operator.kill().await);
    }
    tally
}

impl Task {
    async fn prepare(self, shop: &Shop) {
        if self != Self::MakeWithVolume {
            shop.carry_out(Workload::Create).await;
            wait_for("everything is there", MENDED, || async { shop.is_done().await.then_some(()) }).await;
        }
    }

    async fn start(self, shop: &Shop) {
        match self {
            Self::MakeWithVolume => shop.make_with_volume().await,
            Self::Replay => shop.carry_out(Workload::Replay).await,
            Self::Delete => shop.carry_out(Workload::Delete).await,
        }
    }

    /// Whether `Ready` of the object that is looked after stands so.
    async fn tells(self, shop: &Shop, wanted: &str, why: impl Fn(&str) -> bool) -> Result<(), String> {
        let seen = match self {
            Self::MakeWithVolume | Self::Delete => ready(shop, NAME).await,
            Self::Replay => ready_of::<DeadLetterReplay>(shop, REPLAY).await,
        };
        stands(seen, wanted, why)
    }

    /// Whether it is done.
    async fn ends(self, shop: &Shop) -> Result<(), String> {
        shop.complete_job().await;
        match self {
            Self::MakeWithVolume => self.tells(shop, "Unknown Progressing", |_| true).await,
            Self::Replay => self.tells(shop, "True Complete", |_| true).await,
            Self::Delete if shop.is_there().await => Err("the consumer is there".to_owned()),
            Self::Delete => Ok(()),
        }
    }
}

/// Whether a message names this right.
fn names((resource, verb): Right) -> impl Fn(&str) -> bool {
    move |why| why.contains(resource) && why.contains(verb)
}

/// Waits until a condition names the right that is missing, gives it back, and waits until all is well.
async fn named_and_mended(server: &ApiServer, shop: &Shop, right: Right) -> Result<(), String> {
    let named = until(NAMED, || async { stands(ready(shop, NAME).await, "False Forbidden", names(right)) }).await;
    server.grant("operator", None, &operator::rbac::rules()).await;
    let mended = until(MENDED, || async { stands(ready(shop, NAME).await, "Unknown Progressing", |_| true) }).await;
    named.and(mended)
}

/// Whether a condition that was seen is this one.
fn stands(seen: Option<(String, String)>, wanted: &str, why: impl Fn(&str) -> bool) -> Result<(), String> {
    match seen {
        Some((is, message)) if is == wanted && why(&message) => Ok(()),
        other => Err(format!("{other:?} and not {wanted}")),
    }
}

/// Looks until it is so, or says after `limit` what is in its way.
async fn until<F: Future<Output = Result<(), String>>>(limit: Duration, look: impl Fn() -> F) -> Result<(), String> {
    let start = Instant::now();
    loop {
        match look().await {
            Err(why) if start.elapsed() > limit => return Err(format!("{why} after {limit:?}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Ok(()) => return Ok(()),
        }
    }
}

/// The rules of the operator without this right.
fn without((resource, verb): Right) -> Vec<PolicyRule> {
    let mut rules = operator::rbac::rules();
    let mut kept = Vec::new();
    for rule in &mut rules {
        let resources = rule.resources.clone().unwrap_or_default();
        if !resources.iter().any(|name| name == resource) {
            continue;
        }
        let others: Vec<_> = resources.into_iter().filter(|name| name != resource).collect();
        if !others.is_empty() {
            kept.push(PolicyRule { resources: Some(others), ..rule.clone() });
        }
        rule.resources = Some(vec![resource.to_owned()]);
        rule.verbs.retain(|one| one != verb);
    }
    rules.extend(kept);
    rules.retain(|rule| !rule.verbs.is_empty());
    rules
}
