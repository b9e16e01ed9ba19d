//! Rights that are taken away, one at a time: a condition names what is missing, and all is well when it is back.

use std::time::{Duration, Instant};

use k8s_openapi::api::rbac::v1::PolicyRule;
use millrace_operator_testkit::{ApiServer, wait_for};

use super::{
    Tally,
    layer::Faults,
    plans::Running,
    ready::{MENDED, NAMED, ready},
    workload::{NAME, Shop, Workload},
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

/// Takes each of these rights away from an operator, and has it delete a consumer.
pub async fn run_deletions(rights: &[Right]) -> Tally {
    let server = ApiServer::start().await;
    let mut tally = Tally::default();
    for (number, &right) in rights.iter().enumerate() {
        server.grant("operator", None, &operator::rbac::rules()).await;
        let shop = Shop { client: server.client(), namespace: format!("shop-{number}") };
        server.make_namespace(&shop.namespace).await;
        let operator = Running::start(&server, &shop, Faults::default());
        shop.carry_out(Workload::Create).await;
        wait_for("everything is there", MENDED, || async { shop.is_done().await.then_some(()) }).await;
        server.grant("operator", None, &without(right)).await;
        shop.carry_out(Workload::Delete).await;
        let named = within(NAMED, &shop, "False Forbidden", names(right)).await;
        server.grant("operator", None, &operator::rbac::rules()).await;
        tally.count(&format!("{right:?} taken away at a deletion"), named.and(gone(&shop).await));
        drop(operator.kill().await);
    }
    tally
}

/// Waits until the consumer is gone.
async fn gone(shop: &Shop) -> Result<(), String> {
    let start = Instant::now();
    while shop.is_there().await {
        shop.complete_job().await;
        if start.elapsed() > MENDED {
            return Err(format!("not gone after {MENDED:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Whether a message names this right.
fn names((resource, verb): Right) -> impl Fn(&str) -> bool {
    move |why| why.contains(resource) && why.contains(verb)
}

/// Waits until a condition names the right that is missing, gives it back, and waits until all is well.
async fn named_and_mended(server: &ApiServer, shop: &Shop, right: Right) -> Result<(), String> {
    let named = within(NAMED, shop, "False Forbidden", names(right)).await;
    server.grant("operator", None, &operator::rbac::rules()).await;
    let mended = within(MENDED, shop, "Unknown Progressing", |_| true).await;
    named.and(mended)
}

async fn within(limit: Duration, shop: &Shop, wanted: &str, tells: impl Fn(&str) -> bool) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let seen = ready(shop, NAME).await;
        if seen.as_ref().is_some_and(|(is, why)| is == wanted && tells(why)) {
            return Ok(());
        }
        if start.elapsed() > limit {
            return Err(format!("{seen:?} and not {wanted} after {limit:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
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
    rules
}
