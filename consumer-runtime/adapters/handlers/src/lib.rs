//! What is done with an event: a log line, an e-mail, a sum, a request, a reservation.

mod analytics;
mod email;
mod http;
mod inventory;
mod log;

pub use millrace_secret::MountedSecret;

pub use crate::{
    analytics::{
        AnalyticsHandler, AnalyticsLimits, AnalyticsSource, AnalyticsSummary, PostgresAnalyticsHandler,
        register as register_analytics,
    },
    email::{EmailHandler, EmailOptions, InvalidSender},
    http::{
        ContentMode, HttpHandler, HttpOptions, InvalidTarget, Reach, Resolve, ResponsePolicy, SystemResolver,
        TlsOptions,
    },
    inventory::InventoryHandler,
    log::{LogHandler, LogLevel},
};

use millrace_core::outcome::Outcome;
use millrace_events::{Event, ShopEvent};

/// Reads an event as one of the shop's, or says how its attempt ends.
fn shop_event(event: &Event) -> Result<ShopEvent, Outcome> {
    ShopEvent::from_event(event).map_err(|error| Outcome::permanent(error.reason(), error.to_string()))
}
