//! The dead letters of a shop, read from its broker.

use async_nats::{HeaderMap, jetstream};
use millrace_events::Origin;

use crate::cluster::Cluster;

/// A dead letter, and the message that it was made of.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Who gave it up: `namespace/name`.
    pub consumer: String,
    /// Why.
    pub reason: String,
    /// Where it came from.
    pub origin: Origin,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The payload of the message at its origin.
    pub original: Vec<u8>,
}

/// Reads every dead letter of a namespace, through a forwarded port.
pub(crate) fn read(cluster: &Cluster, namespace: &str) -> Vec<DeadLetter> {
    let (_forward, port) = cluster.forward(namespace, "nats", 4222);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let context = jetstream::new(async_nats::connect(format!("127.0.0.1:{port}")).await.unwrap());
        let dead = context.get_stream("DLQ").await.unwrap();
        let state = &dead.cached_info().state;
        let mut letters = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = dead.get_raw_message(sequence).await.unwrap();
            let origin: Origin = header(&message.headers, "millrace-origin").parse().unwrap();
            let source = context.get_stream(origin.stream.as_deref().unwrap()).await.unwrap();
            let original = source.get_raw_message(origin.sequence.unwrap()).await.unwrap();
            letters.push(DeadLetter {
                consumer: header(&message.headers, "millrace-consumer"),
                reason: header(&message.headers, "millrace-reason"),
                origin,
                payload: message.payload.to_vec(),
                original: original.payload.to_vec(),
            });
        }
        letters
    })
}

fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).unwrap_or_else(|| panic!("{name} is missing")).as_str().to_owned()
}
