//! What the operator is allowed to do: the only place that says so. The chart's copy is generated.

use k8s_openapi::api::rbac::v1::PolicyRule;

/// The rules of the operator's role in what it watches, one namespace, some or all: just what it asks for. It reads no Secret;
/// those that scaling to zero needs are named in the chart.
pub fn rules() -> Vec<PolicyRule> {
    // A server-side apply is a `patch`, and a `create` where there is nothing yet. Children are deleted by their owner
    // references.
    let children = ["list", "watch", "create", "patch"];
    let got_too = ["get", "list", "watch", "create", "patch"];
    vec![
        // Patched for nothing but its finalizer; got where it cannot be read, to see what was said about that.
        rule("millrace.dev", &["eventconsumers"], &["get", "list", "watch", "patch"]),
        rule("millrace.dev", &["eventconsumers/status"], &["patch"]),
        rule("millrace.dev", &["deadletterreplays"], &["get", "list", "watch"]),
        rule("millrace.dev", &["deadletterreplays/status"], &["patch"]),
        rule("", &["persistentvolumeclaims", "serviceaccounts"], &children),
        // Got before a replay is started, which mounts it.
        rule("", &["configmaps"], &got_too),
        rule("apps", &["deployments"], &children),
        rule("policy", &["poddisruptionbudgets"], &children),
        // Deleted where an object no longer asks for it.
        rule("networking.k8s.io", &["networkpolicies"], &["list", "watch", "create", "patch", "delete"]),
        // The Jobs that delete durables and carry replays out.
        rule("batch", &["jobs"], &got_too),
        rule("", &["pods"], &["list", "watch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ]
}

/// The rules of the operator's role in its own namespace, where it has a Lease of this name.
pub fn lease_rules(lease: &str) -> Vec<PolicyRule> {
    let named = rule("coordination.k8s.io", &["leases"], &["get", "update"]);
    vec![
        PolicyRule { resource_names: Some(vec![lease.to_owned()]), ..named },
        // What does not exist yet has no name that a rule could go by.
        rule("coordination.k8s.io", &["leases"], &["create"]),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(resources.iter().map(|&name| name.to_owned()).collect()),
        verbs: verbs.iter().map(|&name| name.to_owned()).collect(),
        ..PolicyRule::default()
    }
}
