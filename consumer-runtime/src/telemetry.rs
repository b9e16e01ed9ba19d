//! Logs.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::args::LogFormat;

/// Starts logging to stderr. A filter that cannot be read becomes `info`, and a line says so.
pub(crate) fn init(format: LogFormat, level: &str) {
    // Targets and levels are all that it knows. A filter of spans and fields takes half a megabyte of regular expressions.
    let (filter, refused) = match level.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
    };
    let logs = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => registry.with(logs.json().flatten_event(true).with_span_list(false)).init(),
        LogFormat::Text => registry.with(logs).init(),
    }
    if let Some(error) = refused {
        tracing::warn!(%error, level, "the log level cannot be read; using info");
    }
}
