//! The rules of `broker`.

use crate::{Broker, Problem, validate::check_range};

pub(super) fn check(broker: &Broker, problems: &mut Vec<Problem>) {
    match broker {
        Broker { jet_stream: Some(_), nats: None } | Broker { jet_stream: None, nats: Some(_) } => {}
        Broker { .. } => problems.push(Problem::new("broker", "set exactly one of jetStream and nats")),
    }
    if let Some(jet_stream) = &broker.jet_stream {
        check_servers("broker.jetStream.servers", &jet_stream.servers, problems);
        check_range("broker.jetStream.ackWaitSeconds", jet_stream.ack_wait_seconds, 2, 3600, problems);
    }
    if let Some(nats) = &broker.nats {
        check_servers("broker.nats.servers", &nats.servers, problems);
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
