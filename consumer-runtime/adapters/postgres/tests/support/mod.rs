//! What the tests of this crate share.
#![allow(dead_code, reason = "each test uses its part")]

use std::{fs, path::Path, time::Duration};

use millrace_core::key::{ConsumerName, Key};
use millrace_postgres::{Database, DatabaseOptions, MountedSecret};
use millrace_testkit::{postgres_server::PostgresServer, sample};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// A Secret with these keys. Its folder is left for the system to tidy: a connection may be made at any time.
pub(crate) fn secret(keys: &[(&str, &str)]) -> MountedSecret {
    let directory = TempDir::new().unwrap().keep();
    put(&directory, keys);
    MountedSecret { name: "shop-db".to_owned(), directory }
}

/// From now on the Secret has these keys.
pub(crate) fn put(directory: &Path, keys: &[(&str, &str)]) {
    for (key, value) in keys {
        fs::write(directory.join(key), value).unwrap();
    }
}

/// The server's database, as its superuser.
pub(crate) fn database(server: &PostgresServer) -> Database {
    database_with(secret(&[("url", &server.url())]), 16, Duration::from_secs(5))
}

pub(crate) fn database_with(secret: MountedSecret, connections_max: usize, request_timeout: Duration) -> Database {
    Database::new(DatabaseOptions { secret, application_name: "test".to_owned(), connections_max, request_timeout })
}

pub(crate) fn key(id: &str) -> Key {
    Key::new(&ConsumerName { namespace: "shop".to_owned(), name: "inventory".to_owned() }, &sample::event(id))
}

/// A connection of the test's own.
pub(crate) struct Sql(pub(crate) Client);

impl Sql {
    pub(crate) async fn connect(server: &PostgresServer) -> Self {
        let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        tokio::spawn(connection);
        Self(client)
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.0.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.0.query_one(sql, &[]).await.unwrap().get(0)
    }
}
