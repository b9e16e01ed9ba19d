//! Commits that the broker refuses, which only a mock can do when it is told to.

use std::time::Duration;

use millrace_core::ports::Settler as _;
use millrace_core::settle::Settlement;
use millrace_testkit::wait::eventually;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::support::{PATIENCE, open_source, options, read};

#[tokio::test(flavor = "multi_thread")]
async fn refused_commits_are_not_fatal_and_the_next_commit_says_what_is_right_then() {
    let cluster: MockCluster<'static, DefaultProducerContext> = MockCluster::new(1).unwrap();
    cluster.create_topic("orders", 1, 1).unwrap();
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
    for number in 0..30 {
        let payload = number.to_string();
        producer.send(BaseRecord::<[u8], [u8]>::to("orders").payload(payload.as_bytes())).map_err(drop).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    let options = options(cluster.bootstrap_servers(), "orders", "refused");
    let mut opened = open_source(&options).await;
    let deliveries = read(&mut opened.source.reader, 30).await;

    let committed = || {
        let looking: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "refused")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition("orders", 0);
        looking.committed_offsets(list, Duration::from_secs(10)).unwrap().elements()[0].offset()
    };
    // The first is repeated by the library, the second by the next commit, with less metadata.
    let refusals = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE,
    ];
    for (round, refusal) in (1..).zip(refusals) {
        cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[refusal]);
        for delivery in &deliveries[(round - 1) * 10..round * 10] {
            opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
        }
        let position = Offset::Offset(i64::try_from(round * 10).unwrap());
        eventually(&format!("{refusal:?} is overcome"), PATIENCE, || committed() == position).await;
    }
    assert!(opened.metrics.commit_failures.get() > 0, "nothing was refused");
    assert!(opened.source.settler.owns(&deliveries[29].receipt), "nothing was lost by it");

    // The group has gone on without this member: it joins again, and what it could not commit is delivered again.
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    for delivery in &deliveries[20..] {
        opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }
    let again = read(&mut opened.source.reader, 10).await;
    assert_eq!((again[0].payload.as_ref(), again[9].payload.as_ref()), (b"20".as_slice(), b"29".as_slice()));
    assert!(!opened.source.settler.owns(&deliveries[29].receipt) && opened.source.settler.owns(&again[9].receipt));
    // A word about the earlier assignment changes nothing.
    opened.source.settler.settle(&deliveries[25].receipt, Settlement::Done).await.unwrap();
    for delivery in &again {
        opened.source.settler.settle(&delivery.receipt, Settlement::Done).await.unwrap();
    }
    opened.source.settler.flush().await.unwrap();
    assert_eq!(committed(), Offset::Offset(30));
    drop(opened);

    // What was refused and said again is known to the next reader.
    producer.send(BaseRecord::<[u8], [u8]>::to("orders").payload(b"new".as_slice())).map_err(drop).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
    let mut next = open_source(&options).await;
    assert_eq!(read(&mut next.source.reader, 1).await[0].payload, "new");
}
