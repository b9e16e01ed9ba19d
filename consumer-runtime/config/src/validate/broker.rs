//! The rules of `broker`.

use crate::{Broker, Problem, validate::check_range};

pub(super) fn check(broker: &Broker, problems: &mut Vec<Problem>) {
    let kinds = [broker.jet_stream.is_some(), broker.nats.is_some(), broker.kafka.is_some()];
    if kinds.into_iter().filter(|set| *set).count() != 1 {
        problems.push(Problem::new("broker", "set exactly one of jetStream, nats and kafka"));
    }
    if let Some(jet_stream) = &broker.jet_stream {
        check_servers("broker.jetStream.servers", &jet_stream.servers, problems);
        check_range("broker.jetStream.ackWaitSeconds", jet_stream.ack_wait_seconds, 2, 3600, problems);
    }
    if let Some(nats) = &broker.nats {
        check_servers("broker.nats.servers", &nats.servers, problems);
    }
    if let Some(kafka) = &broker.kafka {
        check_bootstrap_servers(&kafka.bootstrap_servers, problems);
    }
}

fn check_servers(field: &str, servers: &[String], problems: &mut Vec<Problem>) {
    if servers.is_empty() {
        problems.push(Problem::new(field, "name at least one server, for example nats://nats.nats.svc:4222"));
    }
    for (index, server) in servers.iter().enumerate() {
        let host = server.strip_prefix("nats://").unwrap_or_default();
        if host.is_empty() || host.contains(['@', '/', ' ']) {
            problems.push(Problem::new(
                format!("{field}[{index}]"),
                format!("{server:?} is not a server URL: use nats://host:port, and authSecretRef for credentials"),
            ));
        }
    }
}

fn check_bootstrap_servers(servers: &[String], problems: &mut Vec<Problem>) {
    const FIELD: &str = "broker.kafka.bootstrapServers";
    if servers.is_empty() {
        problems.push(Problem::new(FIELD, "name at least one broker, for example kafka.kafka.svc:9092"));
    }
    for (index, server) in servers.iter().enumerate() {
        let address = server.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        if !address.is_some_and(|(host, _)| !host.is_empty() && !host.contains(['@', '/', ' ', ','])) {
            problems.push(Problem::new(
                format!("{FIELD}[{index}]"),
                format!("{server:?} is not the address of a broker: use host:port, and authSecretRef for credentials"),
            ));
        }
    }
}
