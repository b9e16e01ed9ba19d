//! Traces of a running process, as a collector and a receiver see them.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use millrace_testkit::{
    http_sink::{HttpSink, Reply},
    nats_server::{NatsServer, free_port},
    sample,
    wait::eventually,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{Span, status::StatusCode},
};
use prost::Message as _;
use tempfile::TempDir;

use crate::support::PATIENCE;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PUBLISHER: &str = "b7ad6b7169203331";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A runtime that posts to `receiver`, three attempts for each event, and tells `collector` of them.
fn start(server: &NatsServer, receiver: &HttpSink, collector: &HttpSink, folder: &TempDir) -> Running {
    let config = folder.path().join("config.yaml");
    let text = format!(
        "consumer: {{namespace: shop, name: hooks}}
broker: {{jetStream: {{servers: ['{}'], stream: ORDERS}}}}
subjects: ['orders.>']
handler: {{http: {{url: '{}'}}}}
delivery: {{deadLetter: {{subject: dlq.hooks}}, maxAttempts: 3, backoff: {{initialMilliseconds: 1}}}}
",
        server.url(),
        receiver.url()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_consumer-runtime"));
    command.arg("--config").arg(config).args(["--http-allow", "127.0.0.0/8"]);
    command.args(["--listen", &format!("127.0.0.1:{}", free_port())]).stderr(Stdio::null());
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret");
    command.env("OTEL_TRACES_SAMPLER_ARG", "0").env("OTEL_BSP_SCHEDULE_DELAY", "100");
    Running(command.spawn().unwrap())
}

/// The services and spans that a collector was told of.
fn spans(collector: &HttpSink) -> Vec<(String, Span)> {
    let requests = collector.received().into_iter();
    let requests = requests.map(|request| ExportTraceServiceRequest::decode(request.body).unwrap());
    let mut spans = Vec::new();
    for resource_spans in requests.flat_map(|request| request.resource_spans) {
        let attributes = format!("{:?}", resource_spans.resource.unwrap().attributes);
        for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push((attributes.clone(), span));
        }
    }
    spans
}

#[tokio::test]
async fn a_collector_is_told_of_each_attempt_and_the_receiver_of_its_span() {
    let server = NatsServer::jetstream().await;
    let context = server.make_streams().await;
    let (receiver, collector) = (HttpSink::start().await, HttpSink::start().await);
    receiver.answer(|_| Reply::status(503));
    let folder = TempDir::new().unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", format!("00-{TRACE}-{PUBLISHER}-01").as_str());
    context.publish_with_headers("orders.placed", headers, sample::order("1")).await.unwrap().await.unwrap();
    context.publish("orders.placed", sample::order("not-recorded")).await.unwrap().await.unwrap();

    let _runtime = start(&server, &receiver, &collector, &folder);

    eventually("the collector is told of the dead letter", PATIENCE, || spans(&collector).len() >= 4).await;
    let told = spans(&collector);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    assert!(told.iter().all(|(service, _)| service.contains("\"hooks\"") && service.contains("\"shop\"")), "{told:?}");
    assert!(told.iter().all(|(_, span)| hex(&span.trace_id) == TRACE), "of the other event nothing is recorded");
    let spans: Vec<&Span> = told.iter().map(|(_, span)| span).collect();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["process ORDERS", "process ORDERS", "process ORDERS", "send dead letter"]);
    let [first, second, third, dead] = spans.as_slice() else { panic!("{names:?}") };
    assert_eq!(hex(&first.parent_span_id), PUBLISHER);
    assert_eq!((&second.links[0].span_id, &third.links[0].span_id), (&first.span_id, &second.span_id));
    assert_eq!(dead.parent_span_id, third.span_id);
    let status = first.status.as_ref().unwrap();
    assert_eq!(
        (status.code(), status.message.as_str()),
        (StatusCode::Error, "the receiver answered 503 Service Unavailable")
    );

    let request = collector.received().swap_remove(0);
    assert_eq!((request.target.as_str(), &*request.headers["authorization"]), ("/v1/traces", "secret"));
    let parents: Vec<String> = receiver
        .received()
        .iter()
        .filter(|request| request.headers["ce-id"] == "1")
        .map(|request| request.headers["traceparent"].clone())
        .collect();
    let expected: Vec<String> =
        [first, second, third].iter().map(|span| format!("00-{TRACE}-{}-01", hex(&span.span_id))).collect();
    assert_eq!(parents, expected);
}
