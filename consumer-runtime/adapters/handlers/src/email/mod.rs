//! The `email` handler: tells customers by SMTP what became of their orders.

mod failure;
mod message;
mod secret;
mod transport;

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use lettre::message::Mailbox;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::{Event, Reason};
use millrace_secret::MountedSecret;
use tracing::debug;

use crate::{
    email::transport::{Transport, TransportOptions},
    shop_event,
};

/// The time that a check may take, whatever an attempt may: its result is waited for.
const CHECK_PATIENCE: Duration = Duration::from_secs(5);

/// How to send.
#[derive(Clone, Debug)]
pub struct EmailOptions {
    /// Name of the Secret that describes the SMTP server, for messages.
    pub secret_name: String,
    /// Where the Secret is mounted: a file for each key.
    pub secret_directory: PathBuf,
    /// Sender address.
    pub from: String,
    /// Most connections that are kept open to the server: one for each worker.
    pub connections_max: usize,
    /// The time that an attempt may take. Half of it is for everything before the content, so that a server which hangs
    /// there is known to have sent nothing; the engine ends the rest.
    pub attempt_timeout: Duration,
}

/// A sender that is not an e-mail address.
#[derive(Debug, thiserror::Error)]
#[error("handler.email.from is not an e-mail address: {0}")]
pub struct InvalidSender(#[from] lettre::address::AddressError);

/// Sends an e-mail for an order placed, an order shipped and a payment failed.
///
/// # Flow
/// The address is the order's `customer_email`. The other two events carry it as the CloudEvents attribute
/// `customeremail` or as the field `customer_email`, and are handled without an e-mail where both are missing.
///
/// # Guarantees
/// `Message-ID` depends only on the event's source and id, so that a receiver can recognise a second copy. The Secret is
/// read for each new connection, and connections live for a minute: a changed one is used without a restart.
///
/// # Errors
/// A refusal that says something of the event (its recipient, its content) is permanent. All others may heal. Only a
/// connection that breaks after the content was sent leaves it open whether the e-mail is on its way.
pub struct EmailHandler {
    secret_name: String,
    from: Mailbox,
    transport: Transport,
    check_patience: Duration,
}

impl EmailHandler {
    /// A handler that sends from `options.from`.
    ///
    /// # Errors
    /// When that is not an address.
    pub fn new(options: EmailOptions) -> Result<Self, InvalidSender> {
        let from = options.from.parse()?;
        let patience = options.attempt_timeout / 2;
        let transport = Transport::new(TransportOptions {
            secret: MountedSecret { name: options.secret_name.clone(), directory: options.secret_directory },
            connections_max: options.connections_max,
            patience,
        });
        let check_patience = patience.min(CHECK_PATIENCE);
        Ok(Self { secret_name: options.secret_name, from, transport, check_patience })
    }
}

#[async_trait]
impl Handler for EmailHandler {
    async fn call(&self, event: &Event, _context: &Context<'_>) -> Outcome {
        let shop_event = match shop_event(event) {
            Ok(shop_event) => shop_event,
            Err(outcome) => return outcome,
        };
        let message = match message::build(event, &shop_event, &self.from) {
            Ok(Some(message)) => message,
            Ok(None) => {
                debug!(event_id = %event.id, "no e-mail is due, or no address is known");
                return Outcome::NotNeeded;
            }
            Err(error) => return Outcome::permanent(Reason::InvalidData, error.to_string()),
        };
        match self.transport.send(&message).await {
            Ok(()) => Outcome::Done,
            Err(error) => error.outcome(),
        }
    }

    async fn check(&self) -> Result<(), Trouble> {
        let checked = self.transport.check(self.check_patience).await;
        checked.map_err(|error| error.trouble(&self.secret_name))
    }
}
