//! The handler.

use std::sync::Arc;

use millrace_config::{
    AddressRanges, Analytics, AnalyticsStore, Handler as HandlerConfig, LogLevel as ConfiguredLevel, RuntimeConfig,
};
use millrace_core::{ports::Handler, time::Clock};
use millrace_handlers::{
    AnalyticsHandler, AnalyticsLimits, AnalyticsSource, EmailHandler, EmailOptions, InventoryHandler, LogHandler,
    LogLevel, PostgresAnalyticsHandler,
};
use millrace_postgres::{Database, Inbox};

use crate::wire::{http::http_handler, seconds};

/// What the `analytics` handler tells apart in memory: some 4 MB of customers, and names that keep `/status` below the 1 MiB that
/// the operator reads.
const ANALYTICS_LIMITS: AnalyticsLimits =
    AnalyticsLimits { customers_max: 100_000, products_max: 1_000, payment_methods_max: 100 };

/// A handler, and where its sums can be seen, if it adds up.
type Made = (Arc<dyn Handler>, Option<Arc<dyn AnalyticsSource>>);

pub(super) fn handler(
    config: &RuntimeConfig,
    secrets_dir: &std::path::Path,
    http_allow: &AddressRanges,
    database: Option<&Database>,
    clock: &Arc<dyn Clock>,
) -> Result<Made, String> {
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
        HandlerConfig { analytics: Some(Analytics { store: AnalyticsStore::Memory }), .. } => {
            let handler = Arc::new(AnalyticsHandler::new(ANALYTICS_LIMITS, Arc::clone(clock)));
            Ok((Arc::clone(&handler) as _, Some(handler)))
        }
        HandlerConfig { analytics: Some(Analytics { store: AnalyticsStore::Postgres }), .. } => {
            let consumer = format!("{}/{}", config.consumer.namespace, config.consumer.name);
            let handler = Arc::new(PostgresAnalyticsHandler::new(inbox(config, database)?, consumer));
            Ok((Arc::clone(&handler) as _, Some(handler)))
        }
        HandlerConfig { inventory: Some(_), .. } => {
            Ok((Arc::new(InventoryHandler::new(inbox(config, database)?)), None))
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

/// What commits an effect together with the end of its claim: in the database of the store, so that it can.
fn inbox(config: &RuntimeConfig, database: Option<&Database>) -> Result<Inbox, String> {
    let database =
        database.ok_or("the handler works in the database of idempotency.store.postgres, which is not set")?;
    Ok(Inbox::new(database.clone(), seconds(config.idempotency.retention_seconds)))
}
