//! From the object to what is needed to build its children. Pure: all problems, not the first.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};
use millrace_config::{Consumer, Limits, Ordering, Problem, RunState, RuntimeConfig};
use millrace_operator_api::{
    EventConsumer, EventConsumerSpec, NetworkPolicy, NetworkPolicyMode, PodTemplate, Scaling, ScalingMode,
};

use crate::error::Error;

/// Longest name of an `EventConsumer`, so that the names of its children and its labels fit.
pub(crate) const NAME_MAX: usize = 50;

/// An `EventConsumer` that breaks no rule.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Its namespace.
    pub namespace: String,
    /// Its name, also that of its children.
    pub name: String,
    /// What its children are owned by; `None` for an object that is not on a cluster.
    pub owner: Option<OwnerReference>,
    /// The generation of the spec that all this is of.
    pub generation: Option<i64>,
    /// The configuration of its pods.
    pub config: RuntimeConfig,
    /// How many pods it has. With `scaling.mode: Lag` that is decided later.
    pub replicas: i32,
    /// How that is decided.
    pub scaling: Scaling,
    /// What they may be connected to, and connect to.
    pub network_policy: NetworkPolicy,
    /// Labels, resources and placement of its pods.
    pub template: PodTemplate,
}

/// Checks every rule, those that the API server has checked too: it may have an older CRD.
pub fn validate(object: &EventConsumer) -> Result<Valid, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let spec = &object.spec;
    let config = RuntimeConfig {
        consumer: Consumer { namespace: namespace.clone(), name: name.clone() },
        broker: spec.broker.clone(),
        subjects: spec.subjects.clone(),
        event_types: spec.event_types.clone(),
        queue_group: spec.queue_group.clone(),
        workers: spec.workers,
        ordering: spec.ordering,
        ordering_key: spec.ordering_key.clone(),
        idempotency: spec.idempotency.clone(),
        handler: spec.handler.clone(),
        delivery: spec.delivery.clone(),
        run_state: spec.run_state,
        drain_timeout_seconds: spec.drain_timeout_seconds,
        limits: Limits::default(),
    };
    let mut problems = config.problems();
    if name.is_empty() || name.len() > NAME_MAX || name.contains('.') {
        problems.push(Problem::new("metadata.name", format!("use a DNS label of at most {NAME_MAX} characters")));
    }
    if config.needs_one_pod() && spec.replicas > 1 {
        problems.push(if config.has_own_volume() {
            Problem::new("replicas", "must be 0 or 1 with idempotency.store.embedded: its volume serves one pod")
        } else {
            Problem::new("ordering", "Key with broker.nats needs replicas: 1")
        });
    }
    if !(0..=100).contains(&spec.replicas) {
        problems.push(Problem::new("replicas", format!("{} is out of range: use 0 to 100", spec.replicas)));
    }
    check_scaling(spec, &config, &mut problems);
    check_network_policy(&spec.network_policy, &mut problems);
    if !problems.is_empty() {
        return Err(Error::Invalid(problems));
    }
    Ok(Valid {
        owner: object.controller_owner_ref(&()).filter(|owner| !owner.uid.is_empty()),
        generation: object.metadata.generation,
        namespace,
        name,
        replicas: if spec.run_state == RunState::Stopped { 0 } else { spec.replicas },
        scaling: spec.scaling.clone(),
        config,
        network_policy: spec.network_policy.clone(),
        template: spec.template.clone(),
    })
}

fn check_scaling(spec: &EventConsumerSpec, config: &RuntimeConfig, problems: &mut Vec<Problem>) {
    let Scaling { min_replicas: least, max_replicas: most, .. } = spec.scaling;
    if least < 0 || !(1..=100).contains(&most) || least > most {
        problems.push(Problem::new("scaling.minReplicas", "use 0 to 100, and at most scaling.maxReplicas"));
    }
    if least == 0 && config.broker.jet_stream.is_none() {
        problems.push(Problem::new("scaling.minReplicas", "0 needs broker.jetStream: use at least 1"));
    }
    if spec.scaling.target_pending_per_replica < 1 {
        problems.push(Problem::new("scaling.targetPendingPerReplica", "use at least 1"));
    }
    let one_works = config.broker.jet_stream.is_some() && config.ordering == Ordering::Key;
    if spec.scaling.mode == ScalingMode::Lag && (config.broker.nats.is_some() || config.has_own_volume() || one_works) {
        let message = "Lag needs a lag and replicas that share it: not broker.nats, idempotency.store.embedded or ordering Key on broker.jetStream";
        problems.push(Problem::new("scaling.mode", message));
    }
}

fn check_network_policy(policy: &NetworkPolicy, problems: &mut Vec<Problem>) {
    if policy.mode == NetworkPolicyMode::None && !policy.egress_ports.is_empty() {
        let message = "has no use with mode None: remove it or use mode Restricted";
        problems.push(Problem::new("networkPolicy.egressPorts", message));
    }
    if policy.egress_ports.contains(&0) {
        problems.push(Problem::new("networkPolicy.egressPorts", "0 is out of range: use 1 to 65535"));
    }
}
