//! The producer as a program, on a real server: it publishes exactly what it says, and its sums are those of the stream.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is how a test reports")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, consumer};
use bytes::Bytes;
use futures::StreamExt;
use millrace_events::{BrokerKind, Event, Headers, Money, Origin, PaymentStatus, ShopEvent};
use millrace_testkit::nats_server::{NatsServer, NatsServerOptions};
use serde_json::Value;
use tokio::process::{Child, Command};

fn start(server: &NatsServer, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_producer"));
    command.arg("--server").arg(server.url()).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

async fn run(server: &NatsServer, arguments: &[&str]) -> Output {
    start(server, arguments).wait_with_output().await.unwrap()
}

fn lines(output: &[u8]) -> Vec<String> {
    String::from_utf8(output.to_vec()).unwrap().lines().map(str::to_owned).collect()
}

async fn stream(server: &NatsServer) -> jetstream::stream::Stream {
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    context.get_stream("ORDERS").await.unwrap()
}

async fn messages(server: &NatsServer) -> Vec<(Headers, Bytes, String)> {
    let mut stream = stream(server).await;
    let count = stream.info().await.unwrap().state.messages;
    let consumer = stream.create_consumer(consumer::pull::OrderedConfig::default()).await.unwrap();
    let messages = consumer.messages().await.unwrap().take(count.try_into().unwrap());
    let read = messages.map(|message| {
        let message = message.unwrap().message;
        let mut headers = Headers::new();
        for (name, values) in message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
            headers.push(name.to_string(), values[0].as_str().to_owned());
        }
        (headers, message.payload.clone(), message.subject.to_string())
    });
    read.collect().await
}

#[tokio::test]
async fn it_publishes_exactly_what_it_says_and_its_sums_are_those_of_the_stream() {
    let server = NatsServer::jetstream().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let plan = ["--create-streams", "--count=600", "--duplicates-percent=10", "--poison=10", "--seed=7"];
    let (summary, ids) = (file("summary.json"), file("ids"));

    let output = run(&server, &[&plan[..], &["--summary", &summary, "--ids", &ids]].concat()).await;

    assert!(output.status.success(), "{output:?}");
    let last = lines(&output.stdout).pop().unwrap();
    assert!(last.starts_with("producer: published=600 unique=530 duplicates=60 poison=10 seconds="), "{last}");

    let mut events = BTreeMap::new();
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    let mut repeated = 0;
    for (headers, payload, subject) in messages(&server).await {
        let origin = Origin {
            broker: BrokerKind::JetStream,
            stream: Some("ORDERS".into()),
            partition: None,
            subject: subject.into(),
            sequence: Some(1),
        };
        let read = Event::decode(&headers, &payload, &origin)
            .and_then(|event| Ok((event.id.to_string(), ShopEvent::from_event(&event)?)));
        match read {
            Ok((id, event)) => {
                assert_eq!(event.nats_subject(), &*origin.subject);
                repeated += events.insert(id, event).map_or(0, |_| 1);
            }
            Err(error) => *refused.entry(error.reason().to_string()).or_default() += 1,
        }
    }
    let summary: Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    assert_eq!((events.len(), repeated), (530, 60));
    assert_eq!(serde_json::to_value(&refused).unwrap(), summary["poison_by_reason"]);
    assert_eq!(refused.len(), 5);
    assert_sums(&summary, events.values());
    let listed: BTreeSet<String> = lines(&std::fs::read(ids).unwrap()).into_iter().collect();
    let expected = events.iter().map(|(id, event)| format!("{id} {}", event.meta().event_type));
    assert_eq!(listed, expected.collect());
}

fn assert_sums<'a>(summary: &Value, events: impl Iterator<Item = &'a ShopEvent>) {
    let (mut revenue, mut customers) = (Money::ZERO, BTreeSet::new());
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut products: BTreeMap<&str, u64> = BTreeMap::new();
    for event in events {
        match event {
            ShopEvent::OrderPlaced(order) => {
                *counts.entry("orders").or_default() += 1;
                revenue = revenue.checked_add(order.total_amount).unwrap();
                customers.insert(&order.customer_id);
                let mut total = Money::ZERO;
                for item in &order.items {
                    *products.entry(&item.product_id).or_default() += u64::from(item.quantity);
                    total = total.checked_add(item.price.checked_mul(item.quantity.into()).unwrap()).unwrap();
                }
                assert_eq!(total, order.total_amount);
            }
            ShopEvent::OrderShipped(_) => *counts.entry("shipments").or_default() += 1,
            ShopEvent::PaymentProcessed(payment) => match payment.status {
                PaymentStatus::Success => *counts.entry("payments_succeeded").or_default() += 1,
                PaymentStatus::Failed => *counts.entry("payments_failed").or_default() += 1,
            },
        }
    }
    for (name, count) in counts {
        assert_eq!(summary[name], count, "{name}");
    }
    assert_eq!(summary["total_revenue"].to_string().parse::<Money>().unwrap(), revenue);
    assert_eq!(summary["customers"], customers.len());
    assert_eq!(summary["quantity_by_product"], serde_json::to_value(products).unwrap());
}

#[tokio::test]
async fn a_crash_of_the_server_neither_loses_nor_doubles_a_message() {
    let mut server = NatsServer::jetstream().await;
    let plan = ["--create-streams", "--count=20000", "--poison=20"];
    let mut producer = start(&server, &plan);
    let some = async {
        let deadline = Instant::now() + Duration::from_secs(20);
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        loop {
            assert!(Instant::now() < deadline, "nothing is published");
            if let Ok(mut stream) = context.get_stream("ORDERS").await
                && stream.info().await.unwrap().state.messages > 500
            {
                break;
            }
        }
    };
    some.await;

    server.restart().await;
    assert!(producer.try_wait().unwrap().is_none(), "it was over before the crash");

    let output = producer.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stream(&server).await.info().await.unwrap().state.messages, 20_000);
}

#[tokio::test]
async fn what_it_cannot_do_it_says_with_the_cause() {
    let user = Some(("shop", "secret"));
    let locked = NatsServer::start(NatsServerOptions { user, ..NatsServerOptions::default() }).await;
    let without_stream = NatsServer::jetstream().await;

    for (server, arguments, complaint) in [
        (&locked, &["--user=shop", "--password=wrong"][..], "authorization violation"),
        (&without_stream, &[], "no stream covers subject \"orders.placed\""),
        (&without_stream, &["--count=10", "--poison=10"], "raise --count"),
        (&without_stream, &["--ids=/nowhere/ids"], "failed to write /nowhere/ids: No such file"),
    ] {
        let output = run(server, arguments).await;

        let said = lines(&output.stderr).join(" ");
        assert!(!output.status.success() && said.contains(complaint), "{said}");
    }
}

#[tokio::test]
async fn on_nats_core_it_publishes_to_whoever_listens_even_to_everything() {
    let server = NatsServer::start(NatsServerOptions::default()).await;
    let listener = async_nats::connect(server.url()).await.unwrap();
    let subscription = listener.subscribe(">").await.unwrap();
    listener.request("nobody", Bytes::new()).await.unwrap_err();

    let output = run(&server, &["--core", "--count=100"]).await;

    assert!(output.status.success(), "{output:?}");
    let heard = subscription.filter(|message| std::future::ready(!message.subject.starts_with("_INBOX")));
    let heard = heard.filter(|message| std::future::ready(message.subject.as_str() != "nobody"));
    assert_eq!(heard.take(100).count().await, 100);
}
