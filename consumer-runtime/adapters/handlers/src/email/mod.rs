//! The `email` handler: tells customers by SMTP what became of their orders.

mod message;
mod secret;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    message::Mailbox,
    transport::smtp::{self, PoolConfig},
};
use millrace_core::{
    health::{Trouble, TroubleReason},
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::{Event, Reason};
use tracing::debug;

use crate::{email::secret::SmtpSecret, shop_event};

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// How to send.
#[derive(Clone, Debug)]
pub struct EmailOptions {
    /// Name of the Secret that describes the SMTP server, for messages.
    pub secret_name: String,
    /// Where the Secret is mounted: a file for each key.
    pub secret_directory: PathBuf,
    /// Sender address.
    pub from: String,
    /// Most connections to the server: one for each worker.
    pub connections: u32,
    /// The time that one command to the server may take.
    pub command_timeout: Duration,
}

/// A sender that is not an e-mail address.
#[derive(Debug, thiserror::Error)]
#[error("handler.email.from is not an e-mail address: {0}")]
pub struct InvalidSender(#[from] lettre::address::AddressError);

/// Sends an e-mail for an order placed, an order shipped and a payment failed.
///
/// The address is the order's `customer_email`; the other two events carry it as the CloudEvents attribute
/// `customeremail`, and are handled without an e-mail where that is missing. `Message-ID` depends only on the event's
/// source and id, so that a receiver can recognise a second copy.
pub struct EmailHandler {
    options: EmailOptions,
    from: Mailbox,
    /// Made from the Secret, and made again from it after the server has refused the credentials.
    transport: Mutex<Option<Transport>>,
}

impl EmailHandler {
    /// A handler that sends from `options.from`.
    ///
    /// # Errors
    /// When that is not an address.
    pub fn new(options: EmailOptions) -> Result<Self, InvalidSender> {
        let from = options.from.parse()?;
        Ok(Self { options, from, transport: Mutex::default() })
    }

    fn transport(&self) -> Result<Transport, Trouble> {
        let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transport) = transport.as_ref() {
            return Ok(transport.clone());
        }
        let pool = PoolConfig::new().max_size(self.options.connections);
        let builder = SmtpSecret::read(&self.options.secret_name, &self.options.secret_directory)?.transport()?;
        let made = builder.pool_config(pool).timeout(Some(self.options.command_timeout)).build();
        *transport = Some(made.clone());
        Ok(made)
    }

    fn forget_transport(&self) {
        *self.transport.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn trouble(&self, error: &smtp::Error) -> Trouble {
        let name = &self.options.secret_name;
        if is_refused_login(error) {
            self.forget_transport();
            return Trouble::new(
                TroubleReason::Unauthorized,
                format!("the SMTP server refuses the credentials of secret {name:?} ({error}); correct it"),
            );
        }
        self.forget_transport();
        Trouble::new(
            TroubleReason::Unreachable,
            format!(
                "no SMTP server answers as secret {name:?} describes it ({error}); correct it or check the network"
            ),
        )
    }

    fn outcome(&self, error: &smtp::Error) -> Outcome {
        if is_refused_login(error) {
            self.forget_transport();
            return Outcome::retryable(format!("the SMTP server refuses the credentials: {error}"));
        }
        if error.is_permanent() {
            return Outcome::permanent(
                Reason::HandlerRejected,
                format!("the SMTP server refuses the message: {error}"),
            );
        }
        // A connection that was not made has sent nothing. The library has no question for it but its text.
        if error.is_transient() || error.to_string().starts_with("Connection error") {
            return Outcome::retryable(error.to_string());
        }
        Outcome::ambiguous(format!("the connection broke before the SMTP server had answered: {error}"))
    }
}

/// Replies of RFC 4954 that speak of the login and not of the message.
fn is_refused_login(error: &smtp::Error) -> bool {
    error.status().is_some_and(|code| matches!(u16::from(code), 454 | 530 | 534 | 535 | 538))
}

#[async_trait]
impl Handler for EmailHandler {
    async fn call(&self, event: &Event, _context: &Context) -> Outcome {
        let shop_event = match shop_event(event) {
            Ok(shop_event) => shop_event,
            Err(outcome) => return outcome,
        };
        let message = match message::build(event, &shop_event, &self.from) {
            Ok(Some(message)) => message,
            Ok(None) => {
                debug!(event_id = %event.id, "no e-mail is due, or no address is known");
                return Outcome::Done;
            }
            Err(error) => return Outcome::permanent(Reason::InvalidData, error.to_string()),
        };
        let transport = match self.transport() {
            Ok(transport) => transport,
            Err(trouble) => return Outcome::retryable(trouble.message),
        };
        match transport.send(message).await {
            Ok(_) => Outcome::Done,
            Err(error) => self.outcome(&error),
        }
    }

    async fn check(&self) -> Result<(), Trouble> {
        let transport = self.transport()?;
        match transport.test_connection().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Trouble::new(TroubleReason::Failing, "the SMTP server does not answer NOOP")),
            Err(error) => Err(self.trouble(&error)),
        }
    }
}
