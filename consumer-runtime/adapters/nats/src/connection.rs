//! A connection to NATS: kept up, and told about in the process's health.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use futures::StreamExt;
use millrace_core::{
    backoff::Backoff,
    health::{Health, Part, Trouble, TroubleReason},
};
use millrace_secret::MountedSecret;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{credentials, tls, tls::TlsOptions};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// URLs of the servers.
    pub servers: Vec<String>,
    /// Where the credentials are, `None` for an anonymous connection.
    pub auth: Option<MountedSecret>,
    /// TLS, `None` where the server decides by itself and its certificate must be one that the system trusts.
    pub tls: Option<TlsOptions>,
    /// Name of the connection, shown by the server.
    pub name: String,
    /// The time that one request may take.
    pub request_timeout: Duration,
    /// The pauses between two attempts to connect. The client library's own grow to seconds; a broker that is back
    /// should be found at once.
    pub reconnect: Backoff,
}

/// A connection, kept up for as long as the process lives.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(crate) client: Client,
    pub(crate) request_timeout: Duration,
    /// Grows with each connection that is made. A new connection has forgotten what was asked on the one before.
    pub(crate) generation: watch::Receiver<u64>,
    /// The last refusal that the server sent. A request without permission gets no answer but this.
    refusal: Arc<Mutex<Option<String>>>,
    /// Messages that the client has dropped, as a subscription had too many.
    overflowed: Arc<AtomicU64>,
}

impl Connection {
    /// The client, for stores that live on the same servers.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns when the server has read everything sent so far. The client library's own flush returns when it is
    /// written to the socket.
    ///
    /// It sends itself a word: a server reads a connection in order, so when the word is back all before it was read.
    pub(crate) async fn round_trip(&self) -> Result<(), String> {
        let inbox = self.client.new_inbox();
        let mut echo = self.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        self.client.publish(inbox, bytes::Bytes::new()).await.map_err(|error| error.to_string())?;
        match tokio::time::timeout(self.request_timeout, echo.next()).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("the connection was closed".to_owned()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// The messages that the client has dropped since it was last asked, as a subscription had too many.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.swap(0, Ordering::Relaxed)
    }

    /// Returns when the client has ended: the task that makes its connections is gone, and none will be made again.
    pub(crate) async fn ended(&self) -> String {
        let mut generation = self.generation.clone();
        while generation.changed().await.is_ok() {}
        "the task of the NATS client has ended".to_owned()
    }

    /// The trouble that a failed request stands for: a refusal where the server sent one, else `otherwise`.
    pub(crate) fn trouble_or(&self, otherwise: Trouble) -> Trouble {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        match refusal {
            Some(refusal) => Trouble::new(TroubleReason::Unauthorized, format!("the server refuses: {refusal}")),
            None => otherwise,
        }
    }
}

/// Connects. From then on the connection is made again by itself whenever it is lost, and `health` is told.
///
/// # Errors
/// `Unreachable`, `Unauthorized`, `SecretMissing` or `SecretInvalid`, with what to do.
pub async fn connect(options: &ConnectionOptions, health: &Arc<Health>) -> Result<Connection, Trouble> {
    let (generation_sender, mut generation) = watch::channel(0);
    let refusal = Arc::new(Mutex::new(None));
    // The library asks for a pause before the very first try too.
    let is_first_try = AtomicBool::new(true);
    let overflowed = Arc::new(AtomicU64::new(0));
    let (reconnect, health) = (options.reconnect, Arc::clone(health));
    let (seen_refusal, overflows) = (Arc::clone(&refusal), Arc::clone(&overflowed));
    let connect_options = match &options.auth {
        Some(auth) => credentials::options(auth)?,
        None => ConnectOptions::new(),
    };
    let mut connect_options = connect_options
        .name(&options.name)
        .connection_timeout(options.request_timeout)
        .request_timeout(Some(options.request_timeout))
        // A half-open connection is found out after two of these.
        .ping_interval(Duration::from_secs(5))
        .reconnect_delay_callback(move |attempts| {
            if is_first_try.swap(false, Ordering::Relaxed) {
                return Duration::ZERO;
            }
            let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
            reconnect.delay(attempts, u64::from(attempts))
        })
        .event_callback(move |event| {
            if matches!(event, Event::SlowConsumer(_)) {
                overflows.fetch_add(1, Ordering::Relaxed);
            }
            on_event(&event, &generation_sender, &health, &seen_refusal);
            std::future::ready(())
        });
    if let Some(tls) = &options.tls {
        connect_options = tls.apply(connect_options)?;
    }
    let client = connect_options.connect(options.servers.as_slice()).await.map_err(|error| trouble(options, &error))?;
    // The first connection is no news to whoever uses it.
    let closed = |_| Trouble::new(TroubleReason::Unreachable, "the connection was closed as soon as it was made");
    generation.wait_for(|generation| *generation > 0).await.map_err(closed)?;
    info!(servers = options.servers.join(","), "connected");
    Ok(Connection { client, request_timeout: options.request_timeout, generation, refusal, overflowed })
}

fn on_event(event: &Event, generation: &watch::Sender<u64>, health: &Health, refusal: &Mutex<Option<String>>) {
    match event {
        Event::Connected => {
            generation.send_modify(|generation| *generation = generation.wrapping_add(1));
        }
        Event::Disconnected => {
            let message = "the connection to the broker was lost; it is being made again";
            if health.fails(Part::Broker, Trouble::new(TroubleReason::Unreachable, message)) {
                warn!(message);
            }
        }
        Event::ServerError(ServerError::AuthorizationViolation) => tell_refused(health),
        // A refusal while it is made again; the library tells that by its text alone.
        Event::ClientError(ClientError::Other(error))
            if *error == ConnectErrorKind::AuthorizationViolation.to_string() =>
        {
            tell_refused(health);
        }
        Event::ServerError(ServerError::Other(error)) => {
            warn!(error, "the broker reports an error");
            if error.to_ascii_lowercase().contains("permissions violation") {
                *refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
            }
        }
        Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
            warn!("messages arrive faster than they are taken: the client drops some");
        }
        Event::ClientError(error) => warn!(%error, "the connection has an error"),
        Event::LameDuckMode | Event::Draining | Event::Closed => info!(%event, "connection"),
    }
}

fn tell_refused(health: &Health) {
    let message = "the broker refuses the credentials; correct the Secret";
    if health.fails(Part::Broker, Trouble::new(TroubleReason::Unauthorized, message)) {
        warn!(message);
    }
}

fn trouble(options: &ConnectionOptions, error: &async_nats::ConnectError) -> Trouble {
    let servers = options.servers.join(", ");
    if let Some(objection) = tls::objection(error) {
        let message = format!(
            "TLS with {servers} fails: {objection}; check broker tls, its Secrets, and the server's certificate"
        );
        return Trouble::new(TroubleReason::TlsFailed, message);
    }
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Trouble::new(
            TroubleReason::Unauthorized,
            match &options.auth {
                Some(auth) => format!("{servers} refuses the credentials of secret {:?}; correct it", auth.name),
                None => format!("{servers} refuses an anonymous connection; set authSecretRef"),
            },
        ),
        ConnectErrorKind::Dns => {
            Trouble::new(TroubleReason::Unreachable, format!("no address is known for {servers}; check broker servers"))
        }
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Tls
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => Trouble::new(
            TroubleReason::Unreachable,
            format!("no NATS server answers at {servers} ({error}); check broker servers and the network"),
        ),
    }
}
