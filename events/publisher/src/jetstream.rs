//! Publishing to a stream.

use std::{future::IntoFuture, time::Duration};

use async_nats::{
    Client, HeaderMap,
    jetstream::{self, context::PublishAckFuture},
};
use bytes::Bytes;

use crate::{error::PublishError, publisher::Published};

/// A stream, which confirms every event.
#[derive(Clone, Debug)]
pub(crate) struct JetStream(jetstream::Context);

impl JetStream {
    pub(crate) fn new(client: Client, confirm_timeout: Duration) -> Self {
        let mut context = jetstream::new(client);
        context.set_timeout(confirm_timeout);
        Self(context)
    }

    pub(crate) async fn send(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<PublishAckFuture, PublishError> {
        let sent = self.0.publish_with_headers(subject.clone(), headers, payload).await;
        sent.map_err(|error| PublishError::from_jet_stream(error, &subject))
    }
}

/// Waits for the stream's word.
pub(crate) async fn confirmed(ack: PublishAckFuture, subject: &str) -> Result<Published, PublishError> {
    let ack = ack.into_future().await.map_err(|error| PublishError::from_jet_stream(error, subject))?;
    Ok(Published { sequence: Some(ack.sequence), duplicate: ack.duplicate })
}
