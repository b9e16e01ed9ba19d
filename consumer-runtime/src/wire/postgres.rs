//! The database that store and handler share.

use std::path::Path;

use millrace_config::RuntimeConfig;
use millrace_postgres::{Database, DatabaseOptions, MountedSecret};

use crate::wire::request_timeout;

/// Most connections of one process. Each is a process of the server; more of them commit hardly faster.
const CONNECTIONS_MAX: u32 = 16;

/// The database of the idempotency store, if it has one.
pub(super) fn database(config: &RuntimeConfig, secrets_dir: &Path) -> Option<Database> {
    let postgres = config.store()?.postgres?;
    Some(Database::new(DatabaseOptions {
        secret: MountedSecret { name: postgres.connection_secret_ref.name, directory: secrets_dir.join("store") },
        application_name: format!("millrace {}/{}", config.consumer.namespace, config.consumer.name),
        connections_max: usize::try_from(config.workers.min(CONNECTIONS_MAX)).unwrap_or(1),
        request_timeout: request_timeout(config),
    }))
}
