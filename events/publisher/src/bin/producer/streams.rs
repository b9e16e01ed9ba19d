//! The streams of the shop.

use async_nats::jetstream::{self, stream::Config};
use millrace_publisher::{PublisherOptions, connect_client};

#[cfg(feature = "kafka")]
use crate::args::To;
use crate::{args::Args, run::Error};

/// Creates the streams that do not exist. Files on one server, kept until their limits: what a demo needs.
pub(crate) async fn create(args: &Args, options: &PublisherOptions) -> Result<(), Error> {
    #[cfg(feature = "kafka")]
    if args.broker == To::Kafka {
        return create_topics(options).await;
    }
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

/// Partitions of a new topic of events: enough for four replicas of a consumer.
#[cfg(feature = "kafka")]
const PARTITIONS: i32 = 4;

/// Creates the topics that do not exist, that of dead letters too. With one copy each: what a demo needs.
#[cfg(feature = "kafka")]
async fn create_topics(options: &PublisherOptions) -> Result<(), Error> {
    use rdkafka::{
        ClientConfig,
        admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
        client::DefaultClientContext,
        error::RDKafkaErrorCode,
    };

    let failed = |stream: &str, source| Error::Stream { stream: stream.to_owned(), source };
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", options.servers.join(","))
        .create()
        .map_err(|error| failed("the topics", error.into()))?;
    let topics =
        [("orders.placed", PARTITIONS), ("orders.shipped", PARTITIONS), ("payments.processed", PARTITIONS), ("dlq", 1)]
            .map(|(topic, partitions)| NewTopic::new(topic, partitions, TopicReplication::Fixed(1)));
    let request = AdminOptions::new().request_timeout(Some(options.connect_timeout));
    let created = admin.create_topics(&topics, &request).await.map_err(|error| failed("the topics", error.into()))?;
    for outcome in created {
        match outcome {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(failed(&topic, code.into())),
        }
    }
    Ok(())
}
