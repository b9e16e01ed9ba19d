//! The children of an `EventConsumer`. Pure: no client in here.

pub(crate) mod claims_volume;
mod command;
mod config_map;
pub(crate) mod delete_durable;
mod deployment;
mod network_policy;
mod pod_disruption_budget;
pub(crate) mod replay;
mod resources;
mod service_account;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, PersistentVolumeClaim, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use millrace_config::{AddressRanges, Broker};

use crate::{error::Error, validate::Valid};

/// Names the consumer that an object belongs to.
pub const CONSUMER_LABEL: &str = "millrace.dev/consumer";

/// The only port of a pod: `/status`, `/metrics` and the probes.
const PORT: u16 = 8080;

/// The images of the consumer-runtime, each as small as what it is for allows.
#[derive(Clone, Debug, clap::Args)]
pub struct RuntimeImages {
    /// Image of the consumer-runtime, for consumers on NATS.
    #[arg(long = "runtime-image", env = "RUNTIME_IMAGE", default_value = "millrace/consumer-runtime:dev")]
    pub nats: String,
    /// Image of the consumer-runtime with librdkafka, for consumers on Kafka.
    #[arg(
        long = "kafka-runtime-image",
        env = "KAFKA_RUNTIME_IMAGE",
        default_value = "millrace/consumer-runtime-kafka:dev"
    )]
    pub kafka: String,
}

impl RuntimeImages {
    /// The image that has what this broker needs.
    fn of(&self, broker: &Broker) -> &str {
        if broker.kafka.is_some() { &self.kafka } else { &self.nats }
    }
}

/// Where the traces of all consumers go.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TraceSettings {
    /// Address of the OpenTelemetry collector that traces are sent to, OTLP over HTTP, for example
    /// `http://otel-collector.observability:4318`. Empty: no traces are kept.
    #[arg(long = "otlp-endpoint", env = "OTLP_ENDPOINT", default_value = "")]
    pub endpoint: String,
    /// How many of the traces that begin at a consumer are recorded, from `0` to `1`.
    #[arg(long = "trace-ratio", env = "TRACE_RATIO", default_value = "1")]
    pub ratio: String,
}

/// What is the same for all consumers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Images of the consumer-runtime.
    pub images: RuntimeImages,
    /// Ranges of addresses that `http` handlers may call though they are not public. No object can set them.
    pub http_allow: AddressRanges,
    /// Where their traces go.
    pub traces: TraceSettings,
}

/// The children of an `EventConsumer`, in the order in which they are applied: configuration and volume are there before a
/// pod asks for them.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The identity of the pods. They are given no token.
    pub service_account: ServiceAccount,
    /// Their configuration.
    pub config_map: ConfigMap,
    /// The volume of the embedded store.
    pub claims_volume: Option<PersistentVolumeClaim>,
    /// At most one pod at a time is taken away on purpose; only where there may be more than one.
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
    /// What the pods may be connected to, and connect to; nothing where no policy is asked for.
    pub network_policy: Option<NetworkPolicy>,
    /// The pods.
    pub deployment: Deployment,
}

/// The children that a valid object is to have.
///
/// # Errors
/// When the configuration cannot be written as YAML.
pub fn build(valid: &Valid, settings: &Settings) -> Result<Desired, Error> {
    let config_map = config_map::build(valid)?;
    Ok(Desired {
        service_account: service_account::build(valid),
        claims_volume: claims_volume::build(valid),
        pod_disruption_budget: pod_disruption_budget::build(valid),
        network_policy: network_policy::build(valid, settings),
        deployment: deployment::build(valid, settings, &config_map),
        config_map,
    })
}

/// The labels that select the pods of a consumer. They cannot be changed later.
pub fn selector(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "consumer-runtime".to_owned()),
        (CONSUMER_LABEL.to_owned(), name.to_owned()),
    ])
}

fn labels(valid: &Valid) -> BTreeMap<String, String> {
    let mut labels = selector(&valid.name);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "millrace".to_owned());
    labels
}

fn metadata(valid: &Valid) -> ObjectMeta {
    ObjectMeta {
        name: Some(valid.name.clone()),
        namespace: Some(valid.namespace.clone()),
        labels: Some(labels(valid)),
        owner_references: valid.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}
