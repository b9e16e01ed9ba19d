//! The streams of the shop.

use async_nats::jetstream::{self, stream::Config};
use millrace_publisher::{PublisherOptions, connect_client};

use crate::{args::Args, run::Error};

/// Creates the streams that do not exist. Files on one server, kept until their limits: what a demo needs.
pub(crate) async fn create(args: &Args, options: &PublisherOptions) -> Result<(), Error> {
    let context = jetstream::new(connect_client(options).await?);
    for (stream, subjects) in [(args.stream.as_str(), &["orders.>", "payments.>"][..]), ("DLQ", &["dlq.>"])] {
        let config = Config {
            name: stream.to_owned(),
            subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
            ..Config::default()
        };
        let created = context.get_or_create_stream(config).await;
        created.map_err(|error| Error::Stream { stream: stream.to_owned(), source: error.into() })?;
    }
    Ok(())
}
