//! The pods.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, HTTPGetAction,
            PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile,
            SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use millrace_config::{RunState, SecretRef};
use sha2::{Digest, Sha256};

use crate::{
    build::{PORT, Settings, claims_volume, config_map, labels, metadata, resources, selector},
    validate::Valid,
};

/// Seconds between the end of a drain and the kill: for flushing, and for what the kubelet itself takes.
const TERMINATION_MARGIN_SECONDS: i64 = 15;

/// The user that the pods run as: `nonroot` of the distroless images.
const USER: i64 = 65532;

const CONFIG_DIRECTORY: &str = "/etc/millrace";
const SECRETS_DIRECTORY: &str = "/etc/millrace/secrets";
const DATA_DIRECTORY: &str = "/var/lib/millrace";

/// Changes when the configuration does, so that the pods are replaced.
const CONFIG_HASH_ANNOTATION: &str = "millrace.dev/config-hash";

pub(super) fn build(valid: &Valid, settings: &Settings, config: &ConfigMap) -> Deployment {
    Deployment {
        metadata: metadata(valid),
        spec: DeploymentSpec {
            replicas: Some(valid.replicas),
            revision_history_limit: Some(3),
            selector: LabelSelector { match_labels: Some(selector(&valid.name)), ..LabelSelector::default() },
            strategy: Some(strategy(valid)),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(valid, config)),
                spec: Some(pod_spec(valid, settings)),
            },
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    }
}

/// How pods are replaced: the new one before the old one, except where there may be only one.
fn strategy(valid: &Valid) -> DeploymentStrategy {
    if valid.config.needs_one_pod() {
        return DeploymentStrategy { type_: Some("Recreate".to_owned()), rolling_update: None };
    }
    // A pause is to be felt at once and by all, and there is nothing to keep available.
    if valid.config.run_state == RunState::Paused {
        return rolling(IntOrString::String("100%".to_owned()), IntOrString::String("100%".to_owned()));
    }
    // With Kafka each pod that comes or goes moves partitions: there one goes first, so that they move once.
    let (surge, unavailable) = if valid.config.broker.kafka.is_some() { (0, 1) } else { (1, 0) };
    rolling(IntOrString::Int(surge), IntOrString::Int(unavailable))
}

fn rolling(surge: IntOrString, unavailable: IntOrString) -> DeploymentStrategy {
    let bounds = RollingUpdateDeployment { max_surge: Some(surge), max_unavailable: Some(unavailable) };
    DeploymentStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(bounds) }
}

fn pod_metadata(valid: &Valid, config: &ConfigMap) -> ObjectMeta {
    let mut annotations = valid.template.metadata.annotations.clone();
    annotations.insert(CONFIG_HASH_ANNOTATION.to_owned(), hash(config));
    // Ours come last and win.
    let mut all = valid.template.metadata.labels.clone();
    all.extend(labels(valid));
    ObjectMeta { labels: Some(all), annotations: Some(annotations), ..ObjectMeta::default() }
}

pub(super) fn pod_spec(valid: &Valid, settings: &Settings) -> PodSpec {
    let template = &valid.template.spec;
    let drain = i64::from(valid.config.drain_timeout_seconds);
    PodSpec {
        service_account_name: Some(valid.name.clone()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(drain.saturating_add(TERMINATION_MARGIN_SECONDS)),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(valid, settings)],
        volumes: Some(volumes(valid)),
        node_selector: some(&template.node_selector),
        tolerations: (!template.tolerations.is_empty()).then(|| template.tolerations.iter().map(toleration).collect()),
        priority_class_name: template.priority_class_name.clone(),
        ..PodSpec::default()
    }
}

fn container(valid: &Valid, settings: &Settings) -> Container {
    let probe = |path: &str, period_seconds, failure_threshold| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    };
    Container {
        name: "consumer-runtime".to_owned(),
        image: Some(settings.images.of(&valid.config.broker).to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec![
            format!("--config={CONFIG_DIRECTORY}/{}", config_map::KEY),
            format!("--secrets-dir={SECRETS_DIRECTORY}"),
            format!("--data-dir={DATA_DIRECTORY}"),
            format!("--listen=0.0.0.0:{PORT}"),
        ]),
        env: environment(valid, settings),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: PORT.into(),
            ..ContainerPort::default()
        }]),
        liveness_probe: Some(probe("/livez", 10, 3)),
        // A part that does not work for a moment is no reason to be taken out.
        readiness_probe: Some(probe("/readyz", 2, 2)),
        resources: Some(resources::build(&valid.template.spec.resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(valid)),
        ..Container::default()
    }
}

/// Only what matters to a consumer: a change of it replaces the pods. Variables, so that commands in the pod see them too.
fn environment(valid: &Valid, settings: &Settings) -> Option<Vec<EnvVar>> {
    let (http_allow, traces) = (&settings.http_allow, &settings.traces);
    let calls = valid.config.handler.http.is_some() && !http_allow.0.is_empty();
    let mut variables = Vec::new();
    if calls {
        variables.push(("MILLRACE_HTTP_ALLOW", http_allow.to_string()));
    }
    if !traces.endpoint.is_empty() {
        variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", traces.endpoint.clone()));
        variables.push(("OTEL_TRACES_SAMPLER_ARG", traces.ratio.clone()));
    }
    let variable =
        |(name, value): (&str, String)| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    (!variables.is_empty()).then(|| variables.into_iter().map(variable).collect())
}

/// The Secrets of a consumer, with the folder that each is mounted at.
fn secrets(valid: &Valid) -> impl Iterator<Item = (&'static str, &SecretRef)> {
    let tls = valid.config.broker.tls();
    let http = valid.config.handler.http.as_ref();
    let http_tls = http.and_then(|http| http.tls.as_ref());
    [
        ("broker", valid.config.broker.auth_secret_ref()),
        ("broker-ca", tls.and_then(|tls| tls.ca_secret_ref.as_ref())),
        ("broker-client", tls.and_then(|tls| tls.client_secret_ref.as_ref())),
        ("store", valid.config.idempotency.store_secret_ref()),
        ("smtp", valid.config.handler.email.as_ref().map(|email| &email.smtp_secret_ref)),
        ("http-signing", http.and_then(|http| http.signing.as_ref()).map(|signing| &signing.secret_ref)),
        ("http-headers", http.and_then(|http| http.headers_secret_ref.as_ref())),
        ("http-ca", http_tls.and_then(|tls| tls.ca_secret_ref.as_ref())),
        ("http-client", http_tls.and_then(|tls| tls.client_secret_ref.as_ref())),
    ]
    .into_iter()
    .filter_map(|(folder, secret)| secret.map(|secret| (folder, secret)))
}

fn volumes(valid: &Valid) -> Vec<Volume> {
    let config = Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: valid.name.clone(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let secrets = secrets(valid).map(|(folder, secret)| Volume {
        name: folder.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.name.clone()),
            default_mode: Some(0o440),
            // A Secret that is missing does not keep the pod from starting: the runtime says that it is missing, and
            // goes on by itself when it is there. So the operator needs no right to read Secrets.
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    });
    let data = claims_volume::embedded(valid).map(|_| Volume {
        name: "data".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claims_volume::name(valid),
            ..PersistentVolumeClaimVolumeSource::default()
        }),
        ..Volume::default()
    });
    std::iter::once(config).chain(secrets).chain(data).collect()
}

fn mounts(valid: &Valid) -> Vec<VolumeMount> {
    let mount = |name: &str, path: String| VolumeMount {
        name: name.to_owned(),
        mount_path: path,
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let config = VolumeMount {
        sub_path: Some(config_map::KEY.to_owned()),
        ..mount("config", format!("{CONFIG_DIRECTORY}/{}", config_map::KEY))
    };
    let secrets = secrets(valid).map(|(folder, _)| mount(folder, format!("{SECRETS_DIRECTORY}/{folder}")));
    let data = claims_volume::embedded(valid)
        .map(|_| VolumeMount { read_only: None, ..mount("data", DATA_DIRECTORY.to_owned()) });
    std::iter::once(config).chain(secrets).chain(data).collect()
}

fn toleration(wanted: &millrace_operator_api::Toleration) -> Toleration {
    Toleration {
        key: wanted.key.clone(),
        operator: wanted.operator.clone(),
        value: wanted.value.clone(),
        effect: wanted.effect.clone(),
        toleration_seconds: wanted.toleration_seconds,
    }
}

fn some(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

fn hash(config: &ConfigMap) -> String {
    let mut hasher = Sha256::new();
    for (key, value) in config.data.iter().flatten() {
        hasher.update(key);
        hasher.update([0]);
        hasher.update(value);
    }
    format!("{:x}", hasher.finalize()).chars().take(16).collect()
}
