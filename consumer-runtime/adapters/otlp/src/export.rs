//! The way of a span to the collector.

use std::{env, sync::Arc, time::Duration};

use millrace_core::{key::ConsumerName, ports::Spans, trace::Span};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanProcessor as _},
};
use tokio::runtime::Handle;

use crate::{client::CollectorClient, convert::span_data};

/// The time in which the last spans must be sent at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Exports spans. They wait in a queue of 2048 (`OTEL_BSP_MAX_QUEUE_SIZE`); what does not fit is dropped.
#[derive(Debug)]
pub struct OtlpSpans {
    consumer: String,
    scope: InstrumentationScope,
    processor: BatchSpanProcessor,
}

/// An exporter that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The system's certificate authorities cannot be read.
    #[error("failed to read the certificate authorities: {0}")]
    Authorities(#[from] std::io::Error),
    /// A variable has a value that cannot be used.
    #[error("failed to make the exporter of traces: {0}; check the variables OTEL_EXPORTER_OTLP_*")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl OtlpSpans {
    /// Starts the exporter of one consumer, on the runtime that this is called from.
    pub fn start(consumer: &ConsumerName) -> Result<Self, OtlpError> {
        let client = CollectorClient::new(Handle::current())?;
        let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        let mut processor = BatchSpanProcessor::builder(exporter.with_http_client(client).build()?).build();
        processor.set_resource(&resource(consumer));
        let scope = InstrumentationScope::builder("millrace").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { consumer: consumer.to_string(), scope, processor })
    }

    /// Sends what waits, for at most 3 s, and ends.
    pub async fn close(self: Arc<Self>) {
        // The exporter's thread needs this runtime for its requests.
        let closing = tokio::task::spawn_blocking(move || self.processor.shutdown_with_timeout(CLOSE_TIMEOUT));
        drop(closing.await);
    }
}

impl Spans for OtlpSpans {
    fn ended(&self, span: Span) {
        self.processor.on_end(span_data(span, &self.consumer, &self.scope));
    }
}

/// Who the spans are of. What the environment says goes before.
fn resource(consumer: &ConsumerName) -> Resource {
    let resource = Resource::builder().with_attribute(KeyValue::new("service.namespace", consumer.namespace.clone()));
    if is_set("OTEL_SERVICE_NAME") {
        return resource.build();
    }
    resource.with_service_name(consumer.name.clone()).build()
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}
