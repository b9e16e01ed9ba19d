//! The handlers: log, email and analytics.
