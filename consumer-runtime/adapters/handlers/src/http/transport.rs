//! The connections to the receiver: opened where they may lead, kept for the next request, and none for long.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Uri,
    header::{HOST, HeaderValue},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, pki_types::ServerName},
};
use url::{Host, Position, Url};

use crate::http::{
    answer::{Answer, ResponsePolicy},
    failure::CallError,
    link::{Link, LinkError, Stream},
    request::Prepared,
    resolve::GuardedResolver,
    tls::Tls,
};

/// Age at which a connection is not used again: a name that has moved and a certificate that was rotated are seen within it.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

/// How long a check waits for the receiver to refuse the certificate of this side. TLS 1.3 does so after the handshake.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(200);

/// Where requests go. It has no `Debug`: it would show the query.
pub(crate) struct Target {
    host: Host<String>,
    port: u16,
    /// Path and query.
    path: Uri,
    /// Value of the header `Host`.
    authority: HeaderValue,
}

/// A URL that no request can be made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the url of handler.http cannot be posted to: use http:// or https://, a host, and a path of ASCII characters")]
pub struct InvalidTarget;

/// Posts to one target.
pub(crate) struct Transport {
    pub(crate) target: Target,
    pub(crate) resolver: GuardedResolver,
    /// Nothing for plain HTTP.
    pub(crate) tls: Option<Tls>,
    /// Most connections kept open between two requests.
    pub(crate) connections_max: usize,
    /// The time that everything before the request may take. The answer has none of its own: whoever calls ends that.
    pub(crate) patience: Duration,
    /// The open connections that nobody uses. The one used last is used next, so that the others get old.
    pub(crate) idle: Mutex<Vec<Link>>,
}

impl TryFrom<&Url> for Target {
    type Error = InvalidTarget;

    fn try_from(url: &Url) -> Result<Self, InvalidTarget> {
        let host = url.host().ok_or(InvalidTarget)?.to_owned();
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        Ok(Self {
            port: url.port_or_known_default().ok_or(InvalidTarget)?,
            path: url[Position::BeforePath..Position::AfterQuery].parse().map_err(|_| InvalidTarget)?,
            authority: authority.parse().map_err(|_| InvalidTarget)?,
            host,
        })
    }
}

impl Target {
    /// Host and port, for messages.
    fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn request(&self, prepared: &Prepared) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(prepared.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = prepared.headers.clone();
        request.headers_mut().insert(HOST, self.authority.clone());
        request
    }
}

impl Transport {
    /// Connects, in at most `patience`. Nothing is posted.
    pub(crate) async fn check(&self, patience: Duration) -> Result<(), CallError> {
        let mut link = self.open(Instant::now() + patience).await?;
        if link.tls.is_some()
            && let Some(refusal) = link.refusal(REFUSAL_PATIENCE).await
        {
            return Err(self.failed(refusal));
        }
        // A receiver that fails is checked again and again: one connection is enough to keep.
        if self.idle().is_empty() {
            self.give_back(link);
        }
        Ok(())
    }

    /// Posts once; returns with the receiver's answer.
    pub(crate) async fn post(&self, prepared: &Prepared, policy: ResponsePolicy) -> Result<Answer, CallError> {
        if let Some(mut link) = self.take_idle() {
            match link.post(self.target.request(prepared), policy).await {
                Ok(answer) => return Ok(self.answered(link, answer)),
                // The others are most likely as old and as dead.
                Err(LinkError::NotSent(_)) => self.idle().clear(),
                Err(error) => return Err(self.failed(error)),
            }
        }
        let mut link = self.open(Instant::now() + self.patience).await?;
        match link.post(self.target.request(prepared), policy).await {
            Ok(answer) => Ok(self.answered(link, answer)),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn answered(&self, link: Link, answer: Answer) -> Answer {
        self.give_back(link);
        answer
    }

    fn failed(&self, error: LinkError) -> CallError {
        let host = self.target.name();
        match error {
            LinkError::NotSent(text) => CallError::Connect { host, text },
            LinkError::CertificateRefused(text) => CallError::Tls { host, text },
            LinkError::Lost(text) => CallError::Lost { host, text },
        }
    }

    async fn open(&self, deadline: Instant) -> Result<Link, CallError> {
        let tls = self.tls.as_ref().map(Tls::current).transpose()?;
        let slow = || Err(CallError::Connect { host: self.target.name(), text: "the time for it is over".to_owned() });
        timeout_at(deadline, self.connect(tls, deadline)).await.unwrap_or_else(|_| slow())
    }

    async fn connect(&self, tls: Option<Arc<ClientConfig>>, deadline: Instant) -> Result<Link, CallError> {
        let addresses = self.resolver.addresses(&self.target.host, self.target.port).await?;
        let tcp = connect_to_one(&addresses, deadline).await;
        let tcp = tcp.map_err(|error| CallError::Connect { host: self.target.name(), text: error.to_string() })?;
        let stream: Box<dyn Stream> = match &tls {
            Some(config) => Box::new(self.shake_hands(tcp, config).await?),
            None => Box::new(tcp),
        };
        Link::new(stream, tls).await.map_err(|error| self.failed(error))
    }

    async fn shake_hands(
        &self,
        tcp: TcpStream,
        config: &Arc<ClientConfig>,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, CallError> {
        let host = self.target.name();
        let name = match &self.target.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).ok(),
            Host::Ipv4(address) => Some(ServerName::from(std::net::IpAddr::V4(*address))),
            Host::Ipv6(address) => Some(ServerName::from(std::net::IpAddr::V6(*address))),
        };
        let Some(name) = name else {
            return Err(CallError::Tls { host, text: "no certificate can have this name".to_owned() });
        };
        TlsConnector::from(Arc::clone(config)).connect(name, tcp).await.map_err(|error| {
            let text = error.to_string();
            let of_tls = error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>);
            if of_tls { CallError::Tls { host, text } } else { CallError::Connect { host, text } }
        })
    }

    fn take_idle(&self) -> Option<Link> {
        let mut idle = self.idle();
        idle.retain(|link| link.opened_at.elapsed() < CONNECTION_AGE_MAX);
        idle.pop()
    }

    fn give_back(&self, link: Link) {
        let mut idle = self.idle();
        if link.is_reusable() && idle.len() < self.connections_max {
            // Those that were made with other certificates are not used again.
            idle.retain(|other| same(other.tls.as_ref(), link.tls.as_ref()));
            idle.push(link);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Link>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn same(one: Option<&Arc<ClientConfig>>, other: Option<&Arc<ClientConfig>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Connects to the first address that answers. Each has an equal share of what is left of the time, so that one which is
/// silent does not use up that of the others.
async fn connect_to_one(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (index, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = Instant::now() + deadline.saturating_duration_since(Instant::now()) / left;
        match timeout_at(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::from(io::ErrorKind::TimedOut),
        }
    }
    Err(last)
}
