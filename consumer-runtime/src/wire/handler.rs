//! The handler.

use std::sync::Arc;

use millrace_config::{AddressRanges, Handler as HandlerConfig, LogLevel as ConfiguredLevel, RuntimeConfig};
use millrace_core::ports::Handler;
use millrace_handlers::{AnalyticsHandler, AnalyticsLimits, EmailHandler, EmailOptions, LogHandler, LogLevel};

use crate::wire::{http::http_handler, seconds};

/// What the `analytics` handler tells apart: some 3 MB of customers, and names that keep `/status` below the 1 MiB that
/// the operator reads.
const ANALYTICS_LIMITS: AnalyticsLimits =
    AnalyticsLimits { customers_max: 100_000, products_max: 1_000, payment_methods_max: 100 };

pub(super) fn handler(
    config: &RuntimeConfig,
    secrets_dir: &std::path::Path,
    http_allow: &AddressRanges,
) -> Result<(Arc<dyn Handler>, Option<AnalyticsHandler>), String> {
    match &config.handler {
        HandlerConfig { email: Some(email), .. } => {
            let handler = EmailHandler::new(EmailOptions {
                secret_name: email.smtp_secret_ref.name.clone(),
                secret_directory: secrets_dir.join("smtp"),
                from: email.from.clone(),
                connections_max: usize::try_from(config.workers).unwrap_or(usize::MAX),
                attempt_timeout: seconds(config.delivery.attempt_timeout_seconds),
            });
            Ok((Arc::new(handler.map_err(|error| error.to_string())?), None))
        }
        HandlerConfig { analytics: Some(_), .. } => {
            let handler = AnalyticsHandler::new(ANALYTICS_LIMITS);
            Ok((Arc::new(handler.clone()), Some(handler)))
        }
        HandlerConfig { http: Some(http), .. } => {
            Ok((Arc::new(http_handler(http, config, secrets_dir, http_allow)?), None))
        }
        HandlerConfig { log, .. } => {
            let level = match log.clone().unwrap_or_default().level {
                ConfiguredLevel::Debug => LogLevel::Debug,
                ConfiguredLevel::Info => LogLevel::Info,
            };
            Ok((Arc::new(LogHandler { level }), None))
        }
    }
}
