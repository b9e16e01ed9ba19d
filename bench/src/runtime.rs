//! The runtime, wired as its program wires it, with a handler that notes what it gets.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use millrace_engine::metrics::Metrics;
use tokio::sync::oneshot;

use crate::{
    handler::Noting,
    job::{Broker, Job, Run, Settings},
    ledger::Ledger,
    loops::{jetstream::until_settled, kafka::Committed},
    meter::Meter,
};

pub(crate) async fn run(job: &Job, settings: &Settings) -> Run {
    let ledger = Arc::new(Ledger::of(job.orders.events()));
    let meter = Arc::new(Meter::default());
    let sleep = Duration::from_millis(job.sleep_ms);
    let handler = Noting { ledger: Arc::clone(&ledger), meter: Arc::clone(&meter), sleep };
    let config = millrace_config::load(&configuration(job, settings)).unwrap();
    let secrets = settings.folder.join("secrets");
    let engine = consumer_runtime::engine_with(config, &secrets, &settings.folder, Arc::new(handler)).await.unwrap();
    let metrics = engine.metrics.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let watching = async {
        let measured = end(job, &metrics, &meter).await;
        drop(stop);
        measured
    };
    let running = engine.run(async { drop(stopped.await) });
    let (drained, (seconds, cpu_seconds)) = tokio::join!(running, watching);
    assert!(matches!(drained, millrace_engine::Drained::Clean { .. }), "{drained:?}");
    let (missing, doubled) = (ledger.missing(), ledger.doubled());
    Run { seconds, cpu_seconds, messages: job.orders.messages, missing, doubled }
}

/// Waits until everything is handled and the broker knows, and gives seconds and CPU seconds.
async fn end(job: &Job, metrics: &Metrics, meter: &Meter) -> (f64, f64) {
    let done = async || {
        loop {
            let totals = metrics.totals();
            if totals.handled + totals.duplicates_skipped >= job.orders.messages {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    match &job.broker {
        Broker::JetStream(url) => {
            let context = jetstream::new(async_nats::connect(url).await.unwrap());
            done().await;
            let stream = context.get_stream(&job.source).await.unwrap();
            until_settled(stream.get_consumer(&job.group).await.unwrap()).await;
            meter.stop()
        }
        Broker::Kafka(address, partitions) => {
            let committed = Committed::of(job, address, *partitions);
            done().await;
            tokio::task::block_in_place(|| committed.wait());
            meter.stop()
        }
    }
}

/// The configuration of the runtime, as the operator would render it.
pub(crate) fn configuration(job: &Job, settings: &Settings) -> String {
    let broker = match &job.broker {
        Broker::JetStream(url) => format!("jetStream: {{servers: ['{url}'], stream: {}}}", job.source),
        Broker::Kafka(address, _) => format!("kafka: {{bootstrapServers: ['{address}']}}"),
    };
    let subjects = match &job.broker {
        Broker::JetStream(_) => format!("{}.>", job.source),
        Broker::Kafka(..) => job.source.clone(),
    };
    format!(
        "consumer: {{namespace: bench, name: {}}}\nbroker: {{{broker}}}\nsubjects: ['{subjects}']\nqueueGroup: {}\n\
         handler: {{log: {{level: Debug}}}}\nidempotency: {{store: {}}}\ndelivery: {{onExhausted: Drop}}\n{}\n",
        settings.consumer, job.group, settings.store, settings.more
    )
}
