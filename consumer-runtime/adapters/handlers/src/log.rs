//! The `log` handler: one line for each event, without its data.

use async_trait::async_trait;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::Event;
use tracing::{debug, info};

/// Level of the log line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogLevel {
    /// Shown only when debug logs are switched on.
    Debug,
    /// Shown by default.
    Info,
}

/// Writes one log line for each event.
#[derive(Clone, Copy, Debug)]
pub struct LogHandler {
    /// Its level.
    pub level: LogLevel,
}

#[async_trait]
impl Handler for LogHandler {
    async fn call(&self, event: &Event, context: &Context<'_>) -> Outcome {
        let (id, source, event_type) = (event.id.as_str(), event.source.as_str(), event.event_type.as_str());
        let (subject, attempt) = (event.subject.as_deref(), context.attempt);
        match self.level {
            LogLevel::Debug => debug!(event_id = id, source, event_type, subject, attempt, "event"),
            LogLevel::Info => info!(event_id = id, source, event_type, subject, attempt, "event"),
        }
        Outcome::Done
    }

    async fn check(&self) -> Result<(), Trouble> {
        Ok(())
    }
}
