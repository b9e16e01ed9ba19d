//! Where claims are kept: a JetStream key-value bucket, or the memory of one process. That in PostgreSQL is in a crate of
//! its own, because handlers share its transactions.

mod jetstream_kv;
mod memory;
mod server_time;

pub use crate::{
    jetstream_kv::{BucketOptions, JetStreamKvStore},
    memory::MemoryStore,
};
