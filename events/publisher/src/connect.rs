//! The connection.

use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use tokio::time::{Instant, sleep};

use crate::{
    error::{ConnectError, may_come_up},
    options::PublisherOptions,
};

/// Longest pause between two attempts to reach a server that is gone.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connects as [`EventPublisher::connect`](crate::EventPublisher::connect) does, for whoever has other things to ask of
/// the server too, such as to create a stream.
///
/// # Errors
/// `Refused` at once where the server refuses, `Unreachable` where none answers within `connect_timeout`.
pub async fn connect_client(options: &PublisherOptions) -> Result<Client, ConnectError> {
    let deadline = Instant::now() + options.connect_timeout;
    let servers = || options.servers.join(", ");
    let mut failures = 0;
    loop {
        let source = match client_options(options).connect(options.servers.as_slice()).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        if !may_come_up(&source) {
            return Err(ConnectError::Refused { servers: servers(), source: source.into() });
        }
        let pause = reconnect_pause(failures);
        if Instant::now() + pause >= deadline {
            return Err(ConnectError::Unreachable { servers: servers(), source: source.into() });
        }
        sleep(pause).await;
        failures += 1;
    }
}

/// Once connected, the client makes a lost connection again for ever.
fn client_options(options: &PublisherOptions) -> ConnectOptions {
    let client_options = ConnectOptions::new()
        .name("millrace publisher")
        .request_timeout(Some(options.confirm_timeout))
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_pause);
    match &options.credentials {
        Some(credentials) => {
            client_options.user_and_password(credentials.username.clone(), credentials.password.clone())
        }
        None => client_options,
    }
}

/// The pause after so many failures in a row: 50 ms, doubling up to a second.
fn reconnect_pause(failures: usize) -> Duration {
    let exponent = u32::try_from(failures).unwrap_or(u32::MAX).min(10);
    Duration::from_millis(50).saturating_mul(2_u32.saturating_pow(exponent)).min(RECONNECT_PAUSE_MAX)
}
