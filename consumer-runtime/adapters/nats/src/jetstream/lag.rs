//! How much waits in the stream.

use async_trait::async_trait;
use millrace_core::ports;
use serde::Deserialize;

use crate::connection::Connection;

/// Tells how many events wait for a durable.
#[derive(Clone, Debug)]
pub struct LagProbe {
    connection: Connection,
    subject: String,
}

#[derive(Deserialize)]
struct Info {
    num_pending: u64,
}

impl LagProbe {
    pub(crate) fn new(connection: Connection, stream: &str, durable: &str) -> Self {
        Self { connection, subject: format!("$JS.API.CONSUMER.INFO.{stream}.{durable}") }
    }
}

#[async_trait]
impl ports::LagProbe for LagProbe {
    async fn pending(&self) -> Option<u64> {
        let answer = self.connection.client.request(self.subject.clone(), bytes::Bytes::new()).await.ok()?;
        Some(serde_json::from_slice::<Info>(&answer.payload).ok()?.num_pending)
    }
}
