//! What the pods may be connected to, and connect to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use millrace_operator_api::NetworkPolicyMode;
use url::Url;

use crate::{
    build::{PORT, Settings, metadata, selector},
    validate::Valid,
};

const DNS: u16 = 53;
const NATS: u16 = 4222;
const POSTGRES: u16 = 5432;
const REDIS: u16 = 6379;
/// A mail server's, with STARTTLS and with TLS from the start.
const MAIL: [u16; 2] = [587, 465];

/// Ports by the address that they are at. Without an address: anywhere, because a policy knows no names.
type Destinations = BTreeMap<Option<IpAddr>, BTreeSet<u16>>;

pub(super) fn build(valid: &Valid, settings: &Settings) -> Option<NetworkPolicy> {
    if valid.network_policy.mode == NetworkPolicyMode::None {
        return None;
    }
    let dns = NetworkPolicyEgressRule { ports: Some(vec![port("UDP", DNS), port("TCP", DNS)]), to: None };
    let destinations = destinations(valid, settings).into_iter().map(|(address, ports)| NetworkPolicyEgressRule {
        ports: Some(ports.into_iter().map(|number| port("TCP", number)).collect()),
        to: address.map(|address| vec![only(address)]),
    });
    let services = valid.config.handler.http.as_ref().and_then(|http| http.service_ref.as_ref());
    // Behind a Service a connection has the port of the pod, which nobody tells us.
    let neighbours = services.map(|_| NetworkPolicyEgressRule { ports: None, to: Some(vec![same_namespace()]) });
    Some(NetworkPolicy {
        metadata: metadata(valid),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(selector(&valid.name)), ..LabelSelector::default() }),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            // From anywhere: the operator and whoever collects metrics live in namespaces that the object does not name.
            ingress: Some(vec![NetworkPolicyIngressRule { ports: Some(vec![port("TCP", PORT)]), from: None }]),
            egress: Some(std::iter::once(dns).chain(destinations).chain(neighbours).collect()),
        }),
    })
}

fn destinations(valid: &Valid, settings: &Settings) -> Destinations {
    let config = &valid.config;
    let mut all = Destinations::new();
    let mut add = |address, port| {
        all.entry(address).or_default().insert(port);
    };
    for server in config.broker.servers() {
        // Kafka's have no scheme.
        let url = if config.broker.kafka.is_some() { format!("kafka://{server}") } else { server.clone() };
        if let Some((address, port)) = end(&url, NATS) {
            add(address, port);
        }
    }
    // Where these are, only their Secrets say.
    let store = config.store().unwrap_or_default();
    if store.postgres.is_some() {
        add(None, POSTGRES);
    }
    if store.redis.is_some() {
        add(None, REDIS);
    }
    if config.handler.email.is_some() {
        for port in MAIL {
            add(None, port);
        }
    }
    let url = config.handler.http.as_ref().and_then(|http| http.url.as_deref());
    for url in url.into_iter().chain(Some(settings.traces.endpoint.as_str())) {
        if let Some((address, port)) = end(url, 0) {
            add(address, port);
        }
    }
    for port in &valid.network_policy.egress_ports {
        add(None, *port);
    }
    all
}

/// Where a URL leads: its address, if it is one, and its port.
fn end(url: &str, usual_port: u16) -> Option<(Option<IpAddr>, u16)> {
    let url: Url = url.parse().ok()?;
    let host = url.host_str()?;
    let address = host.trim_matches(['[', ']']).parse().ok();
    Some((address, url.port_or_known_default().unwrap_or(usual_port)))
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number.into())),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    }
}

fn only(address: IpAddr) -> NetworkPolicyPeer {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let block = IPBlock { cidr: format!("{address}/{bits}"), except: None };
    NetworkPolicyPeer { ip_block: Some(block), ..NetworkPolicyPeer::default() }
}

fn same_namespace() -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() }
}
