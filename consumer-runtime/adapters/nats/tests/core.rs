//! The NATS core source keeps the part of the contract that at-most-once delivery allows.
#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_core::{
    backoff::Backoff,
    health::{Health, Part},
    ports::{Reader, Settler},
    window::Budget,
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
        let options = CoreOptions {
            subjects: vec!["orders.*".to_owned()],
            queue_group: "emails".to_owned(),
            waiting_bytes: 1024 * 1024,
        };
        let clock = WallClock::start();
        let (reader, settler) = subscribe(&self.connection, &options, &clock, &self.health).await.unwrap();
        (Box::new(reader), Arc::new(settler))
    }
}

async fn source(server: &NatsServer) -> Source {
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
    Source { publisher: async_nats::connect(server.url()).await.unwrap(), connection, health }
}

#[tokio::test]
async fn the_source_keeps_the_contract() {
    let server = NatsServer::start(NatsServerOptions::default()).await;
    let source = source(&server).await;

    source::run(&source).await;

    assert!(source.health.is_ready());
}

#[tokio::test]
async fn what_comes_while_nothing_is_taken_is_held_up_to_a_bound_in_bytes_and_the_rest_is_counted() {
    let server = NatsServer::start(NatsServerOptions::default()).await;
    let source = source(&server).await;
    let (mut reader, _settler) = source.open().await;
    for _ in 0..20 {
        source.publish(Headers::new(), vec![0; 200_000].into()).await;
    }

    let mut dropped = 0;
    let all_have_come = async {
        while dropped < 15 {
            dropped += reader.dropped();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_have_come).await.unwrap();
    let budget = Budget { messages: 1000, bytes: 500_000 };
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(reader.next_batch(budget).await.unwrap().len());
    }
    assert_eq!((taken, dropped + reader.dropped()), (vec![2, 2, 1], 15));

    source.publish(Headers::new(), Bytes::from_static(b"{}")).await;
    assert_eq!(reader.next_batch(budget).await.unwrap().len(), 1, "it goes on");
}
