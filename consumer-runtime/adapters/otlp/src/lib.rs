//! Exports the spans of attempts to an OpenTelemetry collector: OTLP over HTTP, in batches, from a thread of its own.
//!
//! OpenTelemetry's own variables say where and how: `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_BSP_*`, `OTEL_SERVICE_NAME` and
//! `OTEL_RESOURCE_ATTRIBUTES` (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
#![deny(missing_docs, clippy::wildcard_enum_match_arm)]

mod client;
mod convert;
mod export;

pub use export::{OtlpError, OtlpSpans};
