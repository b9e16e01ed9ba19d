//! One connection that all requests share, made anew when it breaks.

use std::{error::Error, io, sync::Arc};

use ::redis::{AsyncConnectionConfig, ErrorKind, RedisError, aio::MultiplexedConnection};
use millrace_core::health::{Health, NoteReason, Trouble, TroubleReason};
use tokio::{sync::Mutex, time::Instant};
use tracing::info;

use crate::redis::{
    RedisOptions,
    durability::{ServerWords, durability},
    secret,
};

/// One connection that all requests share.
pub(super) struct Link {
    options: RedisOptions,
    health: Arc<Health>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Connections made so far: the number of the present one.
    made: u64,
    failures: u32,
    /// Until then nobody tries again, and everybody is told why.
    pause: Option<(Instant, Trouble)>,
}

impl Link {
    pub(super) fn new(options: RedisOptions, health: Arc<Health>) -> Self {
        Self { options, health, state: Mutex::default() }
    }

    /// The connection, with its number. Makes it when there is none; between two tries there is a pause that grows.
    pub(super) async fn connection(&self) -> Result<(u64, MultiplexedConnection), Trouble> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok((state.made, connection.clone()));
        }
        if let Some((until, trouble)) = &state.pause
            && Instant::now() < *until
        {
            return Err(trouble.clone());
        }
        match self.connect().await {
            Ok(connection) => {
                let made = state.made.saturating_add(1);
                *state = State { connection: Some(connection.clone()), made, failures: 0, pause: None };
                Ok((made, connection))
            }
            Err(trouble) => {
                state.failures = state.failures.saturating_add(1);
                let delay = self.options.reconnect.delay(state.failures, u64::from(state.failures));
                state.pause = Some((Instant::now() + delay, trouble.clone()));
                Err(trouble)
            }
        }
    }

    /// The connection with this number is of no use any more.
    pub(super) async fn broken(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.made == number {
            state.connection = None;
        }
    }

    /// Connects, and checks that the server keeps what it is told.
    async fn connect(&self) -> Result<MultiplexedConnection, Trouble> {
        let timeout = self.options.request_timeout;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        let client = secret::client(&self.options.secret)?;
        let address = client.get_connection_info().addr().to_string();
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| trouble(&address, &error))?;
        let asking = ::redis::cmd("INFO").arg("memory").arg("persistence").query_async::<String>(&mut connection).await;
        let info = asking.map_err(|error| trouble(&address, &error))?;
        // Not every user may read settings; what cannot be read counts as not set.
        let appendfsync = ::redis::cmd("CONFIG").arg("GET").arg("appendfsync").query_async(&mut connection).await;
        let (_, appendfsync): (String, Option<String>) =
            appendfsync.map_or_else(|_| (String::new(), None), |(name, value)| (name, Some(value)));
        let note = durability(ServerWords { info: &info, appendfsync: appendfsync.as_deref() })?;
        self.health.note(NoteReason::StoreNotDurable, note);
        info!(address, "connected to Redis");
        Ok(connection)
    }
}

/// What is wrong and what to do. The library's words show neither the URL nor the password.
fn trouble(address: &str, error: &RedisError) -> Trouble {
    let is_refused = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
    if is_refused || error.kind() == ErrorKind::AuthenticationFailed {
        let message = format!("{address} refuses the username or password, or what they allow is not enough: {error}");
        return Trouble::new(TroubleReason::Unauthorized, message);
    }
    if is_tls(error) {
        let message =
            format!("TLS with {address} failed: {error}; check the key \"ca.crt\" and the server's certificate");
        return Trouble::new(TroubleReason::TlsFailed, message);
    }
    if error.is_io_error() {
        return Trouble::new(TroubleReason::Unreachable, format!("no Redis server answers at {address}: {error}"));
    }
    Trouble::new(TroubleReason::Failing, format!("{address} answers with an error: {error}"))
}

/// A broken handshake is data that is not valid. The library keeps the cause in an `Arc`, as a cause of its own.
fn is_tls(error: &RedisError) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}
