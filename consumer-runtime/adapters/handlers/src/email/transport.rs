//! Connections to the SMTP server, and one e-mail over one of them.
//!
//! The library's own transport says neither at which step it failed nor, in its asynchronous form, ends a step that hangs.
//! Both decide here whether an e-mail may have been sent, so the steps are taken one by one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lettre::{
    Message,
    address::Envelope,
    transport::smtp::{
        authentication::DEFAULT_MECHANISMS,
        client::AsyncSmtpConnection,
        commands::{Data, Mail, Rcpt, Rset},
        extension::{ClientId, Extension, MailParameter},
        response::Response,
    },
};
use millrace_core::health::Trouble;
use millrace_secret::MountedSecret;
use tokio::time::{Instant, timeout_at};

use crate::email::{
    failure::{SendError, Step},
    secret::{Server, SmtpSecret},
};

/// Age at which a connection is not used again, so that a changed Secret is seen within this time.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

/// Where to connect to, and how patiently.
#[derive(Clone, Debug)]
pub(crate) struct TransportOptions {
    /// The Secret that describes the server.
    pub(crate) secret: MountedSecret,
    /// Most connections kept open between two e-mails.
    pub(crate) connections_max: usize,
    /// The time that everything before the content of an e-mail may take. The content has none of its own: whoever calls
    /// ends that.
    pub(crate) patience: Duration,
}

/// Sends e-mails to the server that the Secret describes at that time.
pub(crate) struct Transport {
    options: TransportOptions,
    hello_name: ClientId,
    pool: Mutex<Pool>,
}

/// The open connections that nobody uses, all to one server. The one used last is used next, so that the others get old.
#[derive(Default)]
struct Pool {
    server: Option<Arc<Server>>,
    idle: Vec<Connection>,
}

struct Connection {
    smtp: AsyncSmtpConnection,
    server: Arc<Server>,
    opened_at: Instant,
}

impl Transport {
    pub(crate) fn new(options: TransportOptions) -> Self {
        Self { options, hello_name: ClientId::default(), pool: Mutex::default() }
    }

    /// Connects and logs in, with what the Secret says now, in at most `patience`.
    pub(crate) async fn check(&self, patience: Duration) -> Result<(), SendError> {
        let connection = self.open(Instant::now() + patience).await?;
        self.give_back(connection);
        Ok(())
    }

    /// Sends one e-mail; returns when the server has taken it.
    pub(crate) async fn send(&self, message: &Message) -> Result<(), SendError> {
        let mut connection = self.announced(message.envelope()).await?;
        let sent = connection.smtp.message(&message.formatted()).await;
        let sent = sent.map(|_| ()).map_err(|error| SendError::new(Step::Content, &error));
        // Any reply ends the transaction: the connection is as good as before.
        if !sent.as_ref().is_err_and(SendError::is_of_connection) {
            self.give_back(connection);
        }
        sent
    }

    /// A connection on which an e-mail is announced and its content awaited.
    async fn announced(&self, envelope: &Envelope) -> Result<Connection, SendError> {
        let deadline = Instant::now() + self.options.patience;
        if let Some(mut idle) = self.take_idle() {
            // Half of the patience, so that a connection which went dead unnoticed leaves time for a new one.
            let soon = Instant::now() + self.options.patience / 2;
            match by(soon, Step::Sender, announce(&mut idle.smtp, envelope)).await {
                Ok(_) => return Ok(idle),
                // The others are most likely as old and as dead.
                Err(error) if error.is_of_connection() => self.pool().idle.clear(),
                Err(error) => return Err(self.reset(idle, error, deadline).await),
            }
        }
        let mut connection = self.open(deadline).await?;
        match by(deadline, Step::Sender, announce(&mut connection.smtp, envelope)).await {
            Ok(_) => Ok(connection),
            Err(error) => Err(self.reset(connection, error, deadline).await),
        }
    }

    /// Makes the connection of a refused e-mail fit for the next one, where it can be. Gives the refusal back.
    async fn reset(&self, mut connection: Connection, error: SendError, deadline: Instant) -> SendError {
        let useful = !error.is_of_connection();
        if useful && matches!(timeout_at(deadline, connection.smtp.command(Rset)).await, Ok(Ok(_))) {
            self.give_back(connection);
        }
        error
    }

    async fn open(&self, deadline: Instant) -> Result<Connection, SendError> {
        let server = self.server().map_err(SendError::Secret)?;
        by(deadline, Step::Connect, open(server, &self.hello_name)).await
    }

    /// The server that the Secret describes now. When that is another one, the connections to the last one are closed.
    fn server(&self) -> Result<Arc<Server>, Trouble> {
        let secret = SmtpSecret::read(&self.options.secret)?;
        if let Some(server) = self.pool().server.as_ref().filter(|server| server.secret == secret) {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(Server::new(secret)?);
        *self.pool() = Pool { server: Some(Arc::clone(&server)), idle: Vec::new() };
        Ok(server)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut pool = self.pool();
        pool.idle.retain(|connection| connection.opened_at.elapsed() < CONNECTION_AGE_MAX);
        pool.idle.pop()
    }

    fn give_back(&self, connection: Connection) {
        let mut pool = self.pool();
        let current = pool.server.as_ref().is_some_and(|server| Arc::ptr_eq(server, &connection.server));
        if current && pool.idle.len() < self.options.connections_max && !connection.smtp.has_broken() {
            pool.idle.push(connection);
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(server: Arc<Server>, hello_name: &ClientId) -> Result<Connection, SendError> {
    let failed = |error| SendError::new(Step::Connect, &error);
    let address = (server.secret.host.as_str(), server.secret.port);
    let connecting = AsyncSmtpConnection::connect_tokio1(address, None, hello_name, server.implicit_tls(), None);
    let mut smtp = connecting.await.map_err(failed)?;
    if let Some(tls) = server.start_tls() {
        smtp.starttls(tls, hello_name).await.map_err(failed)?;
    }
    if let Some(credentials) = server.credentials() {
        let login = smtp.auth(DEFAULT_MECHANISMS, &credentials);
        login.await.map_err(|error| SendError::new(Step::Login, &error))?;
    }
    Ok(Connection { smtp, server, opened_at: Instant::now() })
}

/// Announces an e-mail up to its content. The server has nothing to send yet.
async fn announce(smtp: &mut AsyncSmtpConnection, envelope: &Envelope) -> Result<Response, SendError> {
    let mut parameters = Vec::new();
    if !envelope.to().iter().chain(envelope.from()).all(|address| address.to_string().is_ascii()) {
        if !smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(SendError::UnicodeAddress);
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    let sender = Mail::new(envelope.from().cloned(), parameters);
    smtp.command(sender).await.map_err(|error| SendError::new(Step::Sender, &error))?;
    for address in envelope.to() {
        let recipient = Rcpt::new(address.clone(), Vec::new());
        let answer = smtp.command(recipient).await;
        answer.map_err(|error| SendError::new(Step::Recipient, &error).without(address.as_ref()))?;
    }
    smtp.command(Data).await.map_err(|error| SendError::new(Step::Data, &error))
}

/// Ends `work` at `deadline`, as a server that did not answer in `step`.
async fn by<T>(
    deadline: Instant,
    step: Step,
    work: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    let ended = |_| Err(SendError::NoAnswer { step, text: "the time for it is over".to_owned() });
    timeout_at(deadline, work).await.unwrap_or_else(ended)
}
