//! Where the spans of attempts go: to the collector that the environment names, in a build that can.

use std::env;
#[cfg(feature = "otlp")]
use std::sync::Arc;

use millrace_core::key::ConsumerName;
#[cfg(feature = "otlp")]
use millrace_core::{ports::Spans, trace::Tracer};
use millrace_engine::Tracing;

/// The variables of OpenTelemetry that name a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// The exporter of traces.
#[derive(Clone)]
pub(crate) struct Traces {
    tracing: Tracing,
    #[cfg(feature = "otlp")]
    exporter: Arc<millrace_otlp::OtlpSpans>,
}

impl Traces {
    /// Starts it where a collector is named. `ratio` of the traces that begin here are recorded.
    pub(super) fn start(consumer: &ConsumerName, ratio: f64) -> Result<Option<Self>, String> {
        if !ENDPOINTS.into_iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty())) {
            return Ok(None);
        }
        Self::export(consumer, ratio).map(Some)
    }

    #[cfg(feature = "otlp")]
    fn export(consumer: &ConsumerName, ratio: f64) -> Result<Self, String> {
        let exporter = millrace_otlp::OtlpSpans::start(consumer).map_err(|error| error.to_string())?;
        let exporter = Arc::new(exporter);
        let spans: Arc<dyn Spans> = Arc::<millrace_otlp::OtlpSpans>::clone(&exporter);
        let tracing = Tracing { tracer: Tracer::new(consumer, ratio), spans };
        Ok(Self { tracing, exporter })
    }

    #[cfg(not(feature = "otlp"))]
    fn export(_: &ConsumerName, _: f64) -> Result<Self, String> {
        Err(format!("this runtime was built without otlp: unset {}", ENDPOINTS.join(" and ")))
    }

    pub(super) fn tracing(&self) -> Tracing {
        self.tracing.clone()
    }

    /// Sends what waits, and ends.
    #[cfg_attr(not(feature = "otlp"), expect(clippy::unused_async, reason = "there is nothing to wait for"))]
    pub(crate) async fn close(self) {
        #[cfg(feature = "otlp")]
        self.exporter.close().await;
    }
}
