//! One connection to the receiver, and one request over it.
//!
//! Nothing runs beside the attempt: the connection is driven by whoever waits for its answer. So an attempt that is cut
//! closes its connection, and an idle one costs nothing but its socket.

use std::{
    error::Error,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{Builder, Connection, SendRequest},
    header::RETRY_AFTER,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout},
};
use tokio_rustls::rustls::{self, ClientConfig};

use crate::http::answer::{Answer, ResponsePolicy};

/// Most bytes of an answer's body that are read.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of an answer's headers, and most headers. Beyond, the answer counts as unreadable.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

/// How long the rest of an answer is waited for that decides nothing. Without it the connection cannot be used again.
const REST_PATIENCE: Duration = Duration::from_millis(250);

/// Most characters kept of what a library says.
const TEXT_MAX: usize = 200;

/// What bytes go over: TCP, or TLS on it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Wire = Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// A connection to the receiver.
pub(crate) struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// Nothing once it has ended.
    wire: Option<Wire>,
    /// Whether the last answer was read to its end.
    is_idle: bool,
    pub(crate) opened_at: Instant,
    /// The TLS settings that it was made with.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// A request that got no answer.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum LinkError {
    /// It was not sent: the connection had ended before.
    NotSent(String),
    /// The receiver refuses this side's certificate, which it says after the handshake.
    CertificateRefused(String),
    /// It may have been received.
    Lost(String),
}

impl Link {
    /// Speaks HTTP/1.1 over `stream`.
    pub(crate) async fn new(stream: Box<dyn Stream>, tls: Option<Arc<ClientConfig>>) -> Result<Self, LinkError> {
        let (sender, wire) = Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| LinkError::NotSent(text(&error)))?;
        Ok(Self { sender, wire: Some(wire), is_idle: true, opened_at: Instant::now(), tls })
    }

    /// Whether another request may go over it. It may have ended all the same; then that request is not sent.
    pub(crate) fn is_reusable(&self) -> bool {
        self.is_idle && self.wire.is_some()
    }

    /// Sends a request and waits for what `policy` needs of its answer.
    pub(crate) async fn post(
        &mut self,
        request: Request<Full<Bytes>>,
        policy: ResponsePolicy,
    ) -> Result<Answer, LinkError> {
        self.is_idle = false;
        // Sees that the other side has closed it meanwhile, before anything is written.
        let ready = drive(&mut self.wire, self.sender.ready()).await;
        ready.map_err(|error| LinkError::NotSent(text(&error)))?;
        let sent = drive(&mut self.wire, self.sender.try_send_request(request)).await;
        let response = sent.map_err(|error| match error.message() {
            Some(_) => LinkError::NotSent(text(error.error())),
            None => LinkError::of(error.error()),
        })?;
        self.read(response, policy).await
    }

    /// Waits a moment for the receiver to refuse the certificate of this side.
    pub(crate) async fn refusal(&mut self, patience: Duration) -> Option<LinkError> {
        let wire = self.wire.as_mut()?;
        let ended = timeout(patience, wire).await.ok()?;
        self.wire = None;
        ended.err().map(|error| LinkError::of(&error))
    }

    async fn read(&mut self, response: Response<Incoming>, policy: ResponsePolicy) -> Result<Answer, LinkError> {
        let (head, body) = response.into_parts();
        let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut answer = Answer { status: head.status, retry_after, body: Vec::new() };
        let collecting = drive(&mut self.wire, collect(body));
        if policy.reads_body(head.status) {
            let body = collecting.await.map_err(|error| LinkError::Lost(text(&error)))?;
            self.is_idle = body.is_some();
            answer.body = body.unwrap_or_default();
        } else {
            // The code has said all: whatever becomes of the rest, the attempt is decided.
            self.is_idle = matches!(timeout(REST_PATIENCE, collecting).await, Ok(Ok(Some(_))));
        }
        Ok(answer)
    }
}

impl LinkError {
    fn of(error: &hyper::Error) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = error.source();
        while let Some(error) = next {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(rustls::Error::AlertReceived(alert)) = inner.and_then(|inner| inner.downcast_ref()) {
                return Self::CertificateRefused(format!("the other side sent the alert {alert:?}"));
            }
            next = error.source();
        }
        Self::Lost(text(error))
    }
}

/// Does `work` while the connection is driven, which the work waits for.
async fn drive<T>(wire: &mut Option<Wire>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        // What it ended with is told to the work too.
        if wire.as_mut().is_some_and(|wire| Pin::new(wire).poll(context).is_ready()) {
            *wire = None;
        }
        work.as_mut().poll(context)
    })
    .await
}

/// The bytes of a body; nothing when they are more than is read.
async fn collect(mut body: Incoming) -> Result<Option<Vec<u8>>, hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Some(bytes))
}

/// What a library says, with its cause, in short.
fn text(error: &hyper::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}").chars().take(TEXT_MAX).collect()
}
