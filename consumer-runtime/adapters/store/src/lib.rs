//! Where claims are kept: a file of the process, a JetStream key-value bucket, the memory of one process, or Redis. That in
//! PostgreSQL is in a crate of its own, because handlers share its transactions.

mod embedded;
mod jetstream_kv;
mod lifetime;
mod memory;
mod redis;
mod server_time;
mod unsure;

pub use millrace_secret::MountedSecret;

pub use crate::{
    embedded::{EmbeddedOptions, EmbeddedStore},
    jetstream_kv::{BucketOptions, JetStreamKvStore},
    memory::MemoryStore,
    redis::{RedisOptions, RedisStore},
};
