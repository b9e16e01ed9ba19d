//! What is done with an event.

use serde::{Deserialize, Serialize};

use crate::{broker::SecretRef, http::Http};

/// What is done with each event: exactly one of `log`, `email`, `analytics`, `inventory` and `http`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Handler {
    /// Writes one log line per event, without its data. To see what arrives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,

    /// Sends an e-mail to the customer for an order placed, an order shipped and a payment failed. The address is the
    /// order's `customer_email`; the other two events carry it as the CloudEvents attribute `customeremail` or as a field
    /// `customer_email` of their own. An event without an address, and a payment that succeeded, are handled without an
    /// e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,

    /// Adds up revenue, orders per customer, products and payments, and shows them on `/metrics` and `/status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analytics: Option<Analytics>,

    /// Posts each event as a CloudEvent to a URL or to a Service of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,

    /// Reserves stock for each order placed, for all its items or none. Other events are handled without doing anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
}

/// The `log` handler.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// Level of the log line.
    #[serde(default)]
    pub level: LogLevel,
}

/// Level of a log line.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum LogLevel {
    /// Shown only when debug logs are switched on.
    Debug,
    /// Shown by default.
    #[default]
    Info,
}

/// The `email` handler: SMTP.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Email {
    /// Secret in the same namespace that describes the SMTP server: `host`; `port` (default 587, or 465 with
    /// `tls: implicit`); `tls`, one of `starttls` (default), `implicit` and `none`; `ca`, a PEM certificate to trust
    /// beside the usual ones; and, where the server wants them, both `username` and `password`. A changed Secret is used
    /// within a minute of reaching the pod.
    pub smtp_secret_ref: SecretRef,

    /// Sender address, for example `shop@example.com` or `The Shop <shop@example.com>`.
    #[cfg_attr(feature = "schema", schemars(length(min = 3, max = 320), regex(pattern = r"^[^\r\n]*@[^\r\n]+$")))]
    pub from: String,
}

/// The `analytics` handler.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Analytics {
    /// Where the sums are: `Memory`, per pod and gone when it ends; or `Postgres`, exact for good and over all pods, in
    /// the database of `idempotency.store.postgres`, which needs `idempotency.mode: Transactional`.
    #[serde(default)]
    pub store: AnalyticsStore,
}

/// Where the sums of the `analytics` handler are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AnalyticsStore {
    /// In the memory of each pod.
    #[default]
    Memory,
    /// In the database of the idempotency store, in tables named `millrace.analytics_*`.
    Postgres,
}

/// The `inventory` handler: it takes what an order asks for from `millrace.stock` (`product_id`, `available`, `reserved`)
/// and writes it down in `millrace.reservations`, in the transaction that records the event as done. It works in the
/// database of `idempotency.store.postgres`, which needs `idempotency.mode: Transactional`, and makes its tables when
/// they do not exist. You fill `millrace.stock`. An order for a product that is not there, or for more than is
/// available, goes to the dead letters with the reason `HandlerRejected`, and nothing of it is reserved.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Inventory {}

impl Handler {
    /// Whether it commits its effect to the database of the idempotency store.
    pub fn is_transactional(&self) -> bool {
        let analytics = self.analytics.as_ref().is_some_and(|analytics| analytics.store == AnalyticsStore::Postgres);
        self.inventory.is_some() || analytics
    }
}
