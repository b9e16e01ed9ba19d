//! Logs.

use tracing_subscriber::{EnvFilter, fmt};

use crate::args::LogFormat;

/// Starts logging to stderr. A filter that cannot be read becomes `info`, and a line says so.
pub(crate) fn init(format: LogFormat, level: &str) {
    let (filter, refused) = match level.parse::<EnvFilter>() {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let logs = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => logs.json().flatten_event(true).with_span_list(false).init(),
        LogFormat::Text => logs.init(),
    }
    if let Some(error) = refused {
        tracing::warn!(%error, level, "the log level cannot be read; using info");
    }
}
