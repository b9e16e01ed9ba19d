//! Fills streams and topics before anything is measured.

use async_nats::jetstream;
use futures::{StreamExt, TryStreamExt};
use millrace_events::Headers;
use millrace_testkit::{kafka_server::KafkaServer, nats_server::NatsServer};

use crate::orders::{self, Orders};

/// Publishes that may wait for their confirmation. More of them starve the server.
const WINDOW: usize = 1_000;

/// Makes a stream of this name, with subjects below its name, and fills it.
pub(crate) async fn stream(server: &NatsServer, name: &str, orders: Orders) {
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = jetstream::stream::Config {
        name: name.to_owned(),
        subjects: vec![format!("{name}.>")],
        ..jetstream::stream::Config::default()
    };
    context.create_stream(config).await.unwrap();
    let subject = format!("{name}.placed");
    let publish = async |number| context.publish(subject.clone(), orders::body(number).into()).await.unwrap();
    futures::stream::iter(orders.numbers())
        .then(publish)
        .map(|ack| Ok(async { ack.await }))
        .try_buffer_unordered(WINDOW)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
        .unwrap();
}

/// Makes a topic and fills it.
pub(crate) async fn topic(server: &KafkaServer, name: &str, partitions: i32, orders: Orders) {
    server.create_topic(name, partitions, &[]).await;
    let publisher = server.publisher();
    for number in orders.numbers() {
        let key = number.to_string();
        publisher.send(name, Some(key.as_bytes()), &Headers::new(), Some(orders::body(number).as_bytes()));
    }
    publisher.flush();
}
