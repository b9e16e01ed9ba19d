//! The domain of the consumer-runtime and its ports, without IO.
//!
//! Nothing here awaits time or sockets: time comes in as a value, decisions go out as values, and the engine acts on
//! them. The ports are traits that the adapters implement.
#![deny(missing_docs, clippy::wildcard_enum_match_arm)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod backoff;
pub mod breaker;
pub mod claim;
pub mod decide;
pub mod delivery;
pub mod frontier;
pub mod health;
pub mod kept;
pub mod key;
pub mod lane;
pub mod letters;
pub mod naming;
pub mod order;
pub mod outcome;
pub mod pick;
pub mod ports;
pub mod rate;
pub mod retry;
pub mod routing;
pub mod seen;
pub mod settle;
pub mod settled_ahead;
pub mod time;
pub mod trace;
pub mod window;
