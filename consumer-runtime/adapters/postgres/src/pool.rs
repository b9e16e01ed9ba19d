//! The connections that store and handlers share.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, Pool, RecycleError, RecycleResult, Timeouts},
};
use deadpool_postgres::ClientWrapper;
use millrace_core::health::Trouble;
use millrace_secret::MountedSecret;

use crate::{connect::connect, error::DatabaseError};

/// A connection is used for this long, so that a change of the Secret, or of the host behind a name, reaches all of them.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How a database is reached.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// The Secret that describes it: `url`, or `host`, `port`, `user`, `password` and `dbname`; `ca.crt`, `tls.crt` and
    /// `tls.key`.
    pub secret: MountedSecret,
    /// What the server shows for its connections.
    pub application_name: String,
    /// Most connections at once. More requests wait for one, at most the request timeout.
    pub connections_max: usize,
    /// The time that one statement may take, and the making of a connection.
    pub request_timeout: Duration,
}

/// A database: a bounded pool of connections, made when they are needed. Cheap to clone; clones share the pool.
#[derive(Clone)]
pub struct Database {
    pool: Pool<Manager>,
    pub(crate) request_timeout: Duration,
    pub(crate) secret_name: String,
}

struct Manager(DatabaseOptions);

impl managed::Manager for Manager {
    type Type = ClientWrapper;
    type Error = Trouble;

    async fn create(&self) -> Result<ClientWrapper, Trouble> {
        connect(&self.0).await
    }

    async fn recycle(&self, client: &mut ClientWrapper, metrics: &Metrics) -> RecycleResult<Trouble> {
        if client.is_closed() {
            return Err(RecycleError::message("it is closed"));
        }
        if metrics.age() > CONNECTION_LIFETIME {
            return Err(RecycleError::message("it is old"));
        }
        Ok(())
    }
}

impl Database {
    /// A database that nothing is asked of yet.
    ///
    /// # Panics
    /// Never: the runtime that its timeouts need is given.
    pub fn new(options: DatabaseOptions) -> Self {
        let (request_timeout, secret_name) = (options.request_timeout, options.secret.name.clone());
        let patience = Some(request_timeout);
        let connections_max = options.connections_max.max(1);
        let pool = Pool::builder(Manager(options))
            .max_size(connections_max)
            .timeouts(Timeouts { wait: patience, create: patience, recycle: patience })
            .runtime(Runtime::Tokio1)
            .build()
            .expect("a runtime is given, which is all that building a pool can lack");
        Self { pool, request_timeout, secret_name }
    }

    /// A connection, for one piece of work.
    pub async fn session(&self) -> Result<Session, DatabaseError> {
        let object = self
            .pool
            .get()
            .await
            .map_err(|error| DatabaseError::from_pool(error, self.pool.status().max_size, self.request_timeout))?;
        Ok(Session { object: Some(object) })
    }
}

/// A connection at work. Dropped before [`Session::finished`], as it is when its work is cut or fails, it is closed: the
/// server rolls back what was begun, and nobody else meets half an answer.
pub struct Session {
    /// There until the end.
    object: Option<Object<Manager>>,
}

impl Session {
    /// The work is done, and others may use the connection.
    pub fn finished(mut self) {
        drop(self.object.take());
    }
}

impl Deref for Session {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.object.as_ref().expect("it is taken out only at the end")
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        self.object.as_mut().expect("it is taken out only at the end")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}
