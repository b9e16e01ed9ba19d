//! The publisher on a real server: what it confirms is there, whatever happens to the server meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::StreamExt;
use millrace_publisher::{Broker, ConnectError, Credentials, EventPublisher, PublishError, PublisherOptions};
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
async fn handles_may_be_collected_beyond_the_window_or_dropped_and_close_waits_for_all() {
    let server = NatsServer::jetstream().await;
    let mut stream = stream(&server).await;
    let options = PublisherOptions { window: 4, ..PublisherOptions::new([server.url()], Broker::JetStream) };
    let publisher = EventPublisher::connect(options).await.unwrap();

    let mut handles = Vec::new();
    for id in 1..=50 {
        let handle = publisher.publish_async("orders.placed", &sample::event(&id.to_string())).await.unwrap();
        if id % 2 == 0 {
            handles.push(handle);
        }
    }
    let clone = publisher.clone();
    publisher.close().await.unwrap();

    assert_eq!(stream.info().await.unwrap().state.messages, 50);
    for handle in handles {
        handle.confirmed().await.unwrap();
    }
    let late = clone.publish("orders.placed", &sample::event("late")).await;
    assert!(matches!(late, Err(PublishError::Closed)), "{late:?}");
}

#[tokio::test]
async fn the_window_is_full_while_the_broker_is_silent() {
    let mut server = NatsServer::jetstream().await;
    stream(&server).await;
    let confirm_timeout = Duration::from_millis(300);
    let options =
        PublisherOptions { window: 1, confirm_timeout, ..PublisherOptions::new([server.url()], Broker::JetStream) };
    let publisher = EventPublisher::connect(options).await.unwrap();
    server.kill();

    let first = publisher.publish_async("orders.placed", &sample::event("1")).await.unwrap();
    let started = Instant::now();
    drop(publisher.publish_async("orders.placed", &sample::event("2")).await);

    assert!(started.elapsed() >= confirm_timeout / 2, "the second event did not wait for the first");
    let first = first.confirmed().await;
    assert!(matches!(first, Err(PublishError::TimedOut | PublishError::Broker(_))), "{first:?}");
}

#[tokio::test]
async fn a_message_published_with_two_message_ids_is_stored_twice() {
    let server = NatsServer::jetstream().await;
    let mut stream = stream(&server).await;
    let publisher = publisher(&server, Broker::JetStream).await;

    for message_id in ["a", "b", "b"] {
        let (mut headers, payload) = sample::event("1").encode_binary();
        headers.push("Nats-Msg-Id", message_id);
        publisher.publish_message("orders.placed", &headers, payload).await.unwrap().confirmed().await.unwrap();
    }

    assert_eq!(stream.info().await.unwrap().state.messages, 2);
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once_and_a_right_one_is_not() {
    let user = Some(("shop", "secret"));
    let server = NatsServer::start(NatsServerOptions { user, ..NatsServerOptions::default() }).await;
    let connect = |password: &str| {
        let credentials = Some(Credentials { username: "shop".to_owned(), password: password.to_owned() });
        let options = PublisherOptions { credentials, ..PublisherOptions::new([server.url()], Broker::Core) };
        EventPublisher::connect(options)
    };

    let refused = connect("wrong").await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");
    connect("secret").await.unwrap().publish("orders.placed", &sample::event("1")).await.unwrap();
}

#[tokio::test]
async fn a_server_that_comes_up_late_is_waited_for_and_one_that_never_does_is_an_error() {
    let mut server = NatsServer::jetstream().await;
    server.kill();
    let options = PublisherOptions::new([server.url()], Broker::JetStream);

    let connect_timeout = Duration::from_millis(200);
    let absent = EventPublisher::connect(PublisherOptions { connect_timeout, ..options.clone() }).await;
    assert!(matches!(absent, Err(ConnectError::Unreachable { .. })), "{absent:?}");

    let (late, ()) = tokio::join!(EventPublisher::connect(options), server.restart());
    late.unwrap();
}

#[tokio::test]
async fn an_attribute_that_cannot_be_a_header_is_an_error() {
    let server = NatsServer::start(NatsServerOptions::default()).await;
    let publisher = publisher(&server, Broker::Core).await;
    let mut event = sample::event("1");
    event.extensions.insert("größe:".to_owned(), "1".to_owned());

    let refused = publisher.publish("orders.placed", &event).await;

    assert!(matches!(&refused, Err(PublishError::Header(name)) if name == "ce-größe:"), "{refused:?}");
}

#[tokio::test]
async fn a_window_out_of_range_is_refused() {
    for window in [0, 4097] {
        let options = PublisherOptions { window, ..PublisherOptions::new(["nats://x".to_owned()], Broker::Core) };

        let refused = EventPublisher::connect(options).await;
        assert!(matches!(refused, Err(ConnectError::Window(refused)) if refused == window));
    }
}
