//! The NATS core source keeps the part of the contract that at-most-once delivery allows.
#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    backoff::Backoff,
    health::{Health, Part},
    ports::{Reader, Settler},
};
use millrace_events::Headers;
use millrace_nats::{Connection, ConnectionOptions, CoreOptions, connect, subscribe};
use millrace_testkit::{
    clock::WallClock,
    contract::source::{self, SourceUnderTest},
    nats_server::{NatsServer, NatsServerOptions, header_map},
};

struct Source {
    publisher: async_nats::Client,
    connection: Connection,
    health: Arc<Health>,
}

#[async_trait]
impl SourceUnderTest for Source {
    async fn publish(&self, headers: Headers, payload: Bytes) {
        self.publisher.publish_with_headers("orders.placed", header_map(&headers), payload).await.unwrap();
        self.publisher.flush().await.unwrap();
    }

    async fn open(&self) -> (Box<dyn Reader>, Arc<dyn Settler>) {
        let options = CoreOptions { subjects: vec!["orders.*".to_owned()], queue_group: "emails".to_owned() };
        let clock = WallClock::start();
        let (reader, settler) = subscribe(&self.connection, &options, &clock, &self.health).await.unwrap();
        (Box::new(reader), Arc::new(settler))
    }
}

#[tokio::test]
async fn the_source_keeps_the_contract() {
    let server = NatsServer::start(NatsServerOptions::default()).await;
    let health = Arc::new(Health::starting([Part::Broker]));
    let options = ConnectionOptions {
        servers: vec![server.url()],
        auth: None,
        tls: None,
        name: "test".to_owned(),
        request_timeout: Duration::from_secs(1),
        reconnect: Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(1), jitter_percent: 0 },
    };
    let connection = connect(&options, &health).await.unwrap();
    let publisher = async_nats::connect(server.url()).await.unwrap();

    source::run(&Source { publisher, connection, health: Arc::clone(&health) }).await;

    assert!(health.is_ready());
}
