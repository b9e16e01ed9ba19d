//! The suites that every adapter passes: on the in-memory double and on the real thing.

pub mod source;
pub mod store;
