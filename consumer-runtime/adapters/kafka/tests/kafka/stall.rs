//! The watchdog: a client that gets nothing though events wait is made anew, and after some in vain the source fails for
//! good. Only a mock answers every question but that for events.

use std::time::Duration;

use millrace_core::{
    ports::{ReadError, Reader as _, Settler as _},
    settle::Settlement,
    window::Budget,
};
use millrace_kafka::KafkaOptions;
use rdkafka::{
    ClientConfig,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::support::{open_source, options, read};

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster_with(count: usize) -> Cluster {
    let cluster: Cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("orders", 1, 1).unwrap();
    publish(&cluster, count);
    cluster
}

fn publish(cluster: &Cluster, count: usize) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    for number in 0..count {
        let payload = number.to_string();
        producer.send(BaseRecord::<[u8], [u8]>::to("orders").payload(payload.as_bytes())).map_err(drop).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

/// From now on no question for events is answered with any.
fn stall(cluster: &Cluster) {
    // More than a client asks in a minute.
    cluster.request_errors(RDKafkaApiKey::Fetch, &vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT; 10_000]);
}

fn hasty(cluster: &Cluster, group: &str) -> KafkaOptions {
    let mut options = options(cluster.bootstrap_servers(), "orders", group);
    options.timing.stall = Duration::from_secs(1);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gets_nothing_though_events_wait_is_made_anew_and_loses_nothing() {
    let cluster = cluster_with(10);
    let mut opened = open_source(&hasty(&cluster, "once")).await;
    for delivery in read(&mut opened.source.reader, 10).await {
        opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }
    opened.source.settler.flush().await.unwrap();
    assert_eq!(opened.metrics.rebuilds.get(), 0, "waiting where nothing waits is no stall");

    stall(&cluster);
    let (metrics, mut published) = (opened.metrics.clone(), 0);
    // Events go on coming: one that comes just after the end was reached may count as taken until the next one.
    let healing = async {
        while metrics.rebuilds.get() == 0 {
            publish(&cluster, 1);
            published += 1;
            assert!(published < 600, "the client is not made anew");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.clear_request_errors(RDKafkaApiKey::Fetch);
        published
    };
    let reading = async {
        let first = read(&mut opened.source.reader, 1).await.remove(0);
        (first.origin.sequence, opened)
    };
    let (published, (first, mut opened)) = tokio::join!(healing, reading);

    assert_eq!(first, Some(10), "it goes on behind what is settled");
    let rest = read(&mut opened.source.reader, published - 1).await;
    assert_eq!(rest.last().unwrap().origin.sequence, u64::try_from(9 + published).ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_made_anew_in_vain_end_the_source_for_good() {
    let cluster = cluster_with(10);
    stall(&cluster);
    let mut opened = open_source(&hasty(&cluster, "vain")).await;

    let reading = opened.source.reader.next_batch(Budget { messages: 10, bytes: 1_000_000 });
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await.expect("it gives up within its bounds");

    let Err(ReadError::Fatal(reason)) = read else { panic!("{read:?}") };
    assert_eq!(reason, "no event came though some wait, and 3 new clients did not help");
    assert_eq!(opened.metrics.rebuilds.get(), 4);
}
