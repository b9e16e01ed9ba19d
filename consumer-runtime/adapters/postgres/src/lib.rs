//! PostgreSQL: connections as a Secret describes them, claims in a table, and transactions in which an effect and the end
//! of its claim are one.
//!
//! Store and handlers share the pool of one [`Database`], so what a handler does and what the store knows of it are
//! always in the same database.

mod connect;
mod error;
mod inbox;
mod pool;
mod schema;
mod secret;
mod store;
mod sweep;
mod table;
mod together;

/// A transaction, as an [`Effect`] is given it.
pub use deadpool_postgres::Transaction;
pub use millrace_secret::MountedSecret;
pub use tokio_postgres::Error as SqlError;

pub use crate::{
    error::{Class, DatabaseError},
    inbox::{Effect, EffectError, Inbox},
    pool::{Database, DatabaseOptions, Session},
    schema::Component,
    store::PostgresStore,
};
