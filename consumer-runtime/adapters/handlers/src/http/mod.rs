//! The `http` handler: posts events as CloudEvents.

mod answer;
mod failure;
mod guard;
mod link;
mod request;
mod resolve;
mod secrets;
mod sign;
mod tls;
mod transport;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use hyper::header::{HeaderValue, USER_AGENT};
use ipnet::IpNet;
use millrace_core::{
    health::Trouble,
    outcome::Outcome,
    ports::{Context, Handler},
};
use millrace_events::{Event, Reason, TraceContext};
use millrace_secret::MountedSecret;
use url::Url;

pub use crate::http::{
    answer::ResponsePolicy,
    guard::Reach,
    request::ContentMode,
    resolve::{Resolve, SystemResolver},
    tls::TlsOptions,
    transport::InvalidTarget,
};
use crate::http::{
    failure::CallError,
    guard::Guard,
    request::Prepared,
    resolve::GuardedResolver,
    secrets::RequestSecrets,
    tls::Tls,
    transport::{Target, Transport},
};

/// The time that looking up and connecting may take at most, whatever an attempt may.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The time that a check may take: its result is waited for.
const CHECK_PATIENCE: Duration = Duration::from_secs(5);

/// How to post. It has no `Debug`: the query of a URL may hold a token.
#[derive(Clone)]
pub struct HttpOptions {
    /// Where to.
    pub url: Url,
    /// How far a request may reach.
    pub reach: Reach,
    /// Addresses that are allowed beside.
    pub allowed: Vec<IpNet>,
    /// Form of the request.
    pub content_mode: ContentMode,
    /// How the status code of an answer is understood.
    pub response_policy: ResponsePolicy,
    /// Secret to sign with.
    pub signing: Option<MountedSecret>,
    /// Secret with headers to add.
    pub headers: Option<MountedSecret>,
    /// Own authorities and certificate, for an `https` URL.
    pub tls: TlsOptions,
    /// Most connections that are kept open to the receiver: one for each worker.
    pub connections_max: usize,
    /// The time that an attempt may take. At most half of it is for connecting, so that a receiver which cannot be reached is
    /// known to have got nothing; the engine ends the rest.
    pub attempt_timeout: Duration,
}

/// Posts each event as a CloudEvent.
///
/// # Flow
/// Builds the request, adds what the Secrets say, signs it, sends it over an open connection or a new one, and judges the
/// answer by the response policy.
///
/// # Guarantees
/// The address that was checked is the one connected to. `ce-id`, `ce-source` and `webhook-id` are the same at every attempt.
/// Redirects, cookies and proxies do not exist here. Secrets that change are used without a restart.
///
/// # Errors
/// An answer is classed by the policy. Without one, only a connection that breaks after the request was sent leaves it open
/// whether the receiver has acted.
pub struct HttpHandler {
    content_mode: ContentMode,
    response_policy: ResponsePolicy,
    secrets: RequestSecrets,
    transport: Transport,
}

impl HttpHandler {
    /// A handler that posts to `options.url` and looks names up with `resolver`.
    ///
    /// # Errors
    /// When no request can be made of the URL.
    pub fn new(options: HttpOptions, resolver: Arc<dyn Resolve>) -> Result<Self, InvalidTarget> {
        let transport = Transport {
            target: Target::try_from(&options.url)?,
            resolver: GuardedResolver { resolver, guard: Guard { reach: options.reach, allowed: options.allowed } },
            tls: (options.url.scheme() == "https").then(|| Tls::new(options.tls)),
            connections_max: options.connections_max,
            patience: (options.attempt_timeout / 2).min(CONNECT_PATIENCE),
            idle: Mutex::default(),
        };
        Ok(Self {
            content_mode: options.content_mode,
            response_policy: options.response_policy,
            secrets: RequestSecrets { headers: options.headers, signing: options.signing, last: Mutex::default() },
            transport,
        })
    }

    /// The request of an event at this moment, or how its attempt ends.
    fn prepare(&self, event: &Event, trace: Option<TraceContext>, now: SystemTime) -> Result<Prepared, Outcome> {
        let invalid = |text: String| Outcome::permanent(Reason::InvalidData, text);
        let mut prepared =
            request::prepare(event, self.content_mode, trace).map_err(|error| invalid(error.to_string()))?;
        let additions = self.secrets.current().map_err(|trouble| CallError::Secret(trouble).outcome())?;
        let agent = HeaderValue::from_static(concat!("millrace/", env!("CARGO_PKG_VERSION")));
        prepared.headers.insert(USER_AGENT, agent);
        for (name, value) in &additions.headers {
            prepared.headers.insert(name.clone(), value.clone());
        }
        if let Some(signing) = &additions.signing {
            let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            signing.sign(event, seconds, &mut prepared).map_err(|error| invalid(error.to_string()))?;
        }
        Ok(prepared)
    }
}

#[async_trait]
impl Handler for HttpHandler {
    async fn call(&self, event: &Event, context: &Context<'_>) -> Outcome {
        let prepared = match self.prepare(event, context.trace, SystemTime::now()) {
            Ok(prepared) => prepared,
            Err(outcome) => return outcome,
        };
        match self.transport.post(&prepared, self.response_policy).await {
            Ok(answer) => self.response_policy.outcome(&answer, SystemTime::now()),
            Err(error) => error.outcome(),
        }
    }

    async fn check(&self) -> Result<(), Trouble> {
        self.secrets.current()?;
        let patience = self.transport.patience.min(CHECK_PATIENCE);
        self.transport.check(patience).await.map_err(|error| error.trouble())
    }
}
