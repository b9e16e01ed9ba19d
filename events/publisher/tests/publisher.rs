//! The publisher on a real server: what it confirms is there, whatever happens to the server meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use async_nats::jetstream;
use futures::StreamExt;
use millrace_publisher::{Broker, ConnectError, EventPublisher, PublishError, PublisherOptions};
use millrace_testkit::{
    nats_server::{NatsServer, NatsServerOptions},
    sample,
};

async fn stream(server: &NatsServer) -> jetstream::stream::Stream {
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let config = jetstream::stream::Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["orders.>".to_owned()],
        ..jetstream::stream::Config::default()
    };
    context.create_stream(config).await.unwrap()
}

async fn publisher(server: &NatsServer, broker: Broker) -> EventPublisher {
    EventPublisher::connect(PublisherOptions::new([server.url()], broker)).await.unwrap()
}

#[tokio::test]
async fn what_is_confirmed_is_in_the_stream_once_and_a_repeated_publish_is_told() {
    let server = NatsServer::jetstream().await;
    let mut stream = stream(&server).await;
    let publisher = publisher(&server, Broker::JetStream).await;

    let first = publisher.publish("orders.placed", &sample::event("1")).await.unwrap();
    let again = publisher.publish("orders.placed", &sample::event("1")).await.unwrap();
    assert_eq!((first.sequence, first.duplicate, again.duplicate), (Some(1), false, true));

    let mut handles = Vec::new();
    for id in 2..=200 {
        handles.push(publisher.publish_async("orders.placed", &sample::event(&id.to_string())).await.unwrap());
    }
    for handle in handles {
        handle.confirmed().await.unwrap();
    }
    publisher.close().await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 200);
}

#[tokio::test]
async fn a_subject_without_a_stream_is_an_error_that_says_so() {
    let server = NatsServer::jetstream().await;
    let publisher = publisher(&server, Broker::JetStream).await;

    let refused = publisher.publish("nowhere", &sample::event("1")).await;

    assert!(matches!(&refused, Err(PublishError::NoStream(subject)) if subject == "nowhere"), "{refused:?}");
}

#[tokio::test]
async fn it_goes_on_after_a_crash_of_the_server() {
    let mut server = NatsServer::jetstream().await;
    let mut stream = stream(&server).await;
    let publisher = publisher(&server, Broker::JetStream).await;
    publisher.publish("orders.placed", &sample::event("1")).await.unwrap();

    server.restart().await;

    let mut tries = 0;
    while publisher.publish("orders.placed", &sample::event("2")).await.is_err() {
        tries += 1;
        assert!(tries < 5, "it does not come back");
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 2);
}

#[tokio::test]
async fn on_nats_core_a_published_event_has_reached_whoever_listens() {
    let server = NatsServer::start(NatsServerOptions::default()).await;
    let listener = async_nats::connect(server.url()).await.unwrap();
    let mut subscription = listener.subscribe("orders.>").await.unwrap();
    listener.request("none", "".into()).await.unwrap_err();
    let publisher = publisher(&server, Broker::Core).await;

    publisher.publish("orders.placed", &sample::event("1")).await.unwrap();

    let message = subscription.next().await.unwrap();
    assert_eq!(message.headers.unwrap().get("ce-id").unwrap().as_str(), "1");
}

#[tokio::test]
async fn a_window_out_of_range_is_refused() {
    let options = PublisherOptions { window: 0, ..PublisherOptions::new(["nats://x".to_owned()], Broker::Core) };

    assert!(matches!(EventPublisher::connect(options).await, Err(ConnectError::Window(0))));
}
