//! Deleting the durable of a consumer that is no more.

use async_nats::jetstream::{self, ErrorCode, stream::ConsumerErrorKind};
use millrace_core::health::{Trouble, TroubleReason};

use crate::{
    connection::Connection,
    jetstream::setup::{Durable, JetStreamOptions},
};

/// Deletes the durable. One that is not there is deleted, and so is one whose stream is not there.
///
/// # Errors
/// `Failing` and the like, with what the server says: trying again may help.
pub async fn delete_durable(connection: &Connection, options: &JetStreamOptions) -> Result<(), Trouble> {
    let durable = Durable { connection: connection.clone(), options: options.clone() };
    let mut context = jetstream::new(connection.client.clone());
    context.set_timeout(connection.request_timeout);
    let stream = match durable.find_stream(&context).await {
        Ok(stream) => stream,
        Err(trouble) if trouble.reason == TroubleReason::StreamNotFound => return Ok(()),
        Err(trouble) => return Err(trouble),
    };
    match stream.delete_consumer(&options.durable).await {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(server) if server.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(()),
            _ => Err(durable.failing("failed to delete the durable", &error)),
        },
    }
}
