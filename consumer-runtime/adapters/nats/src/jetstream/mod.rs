//! The JetStream source: one durable pull consumer that all replicas share.

pub(crate) mod acks;
pub(crate) mod delete;
pub(crate) mod lag;
pub(crate) mod letters;
pub(crate) mod pin;
mod pull;
pub(crate) mod reader;
pub(crate) mod settler;
pub(crate) mod setup;
pub(crate) mod unreadable;
