//! Until when this process may write. Every request of the client goes past it, as the last thing before it is sent: a
//! process that was paused finds its writes refused before it knows that it has lost its lease.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use http::{Method, Request};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::filter::FilterLayer;

/// Until when this process may write. Clones are one. It is closed at first.
#[derive(Clone, Debug, Default)]
pub struct Fence {
    until: Arc<Mutex<Option<Instant>>>,
}

/// A write that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("the write is not sent: this operator does not lead, or has lost its lease")]
pub struct Closed;

impl Fence {
    /// Lets writes pass until then.
    pub fn open_until(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Lets no write pass any more.
    pub fn close(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Until when writes pass.
    pub fn until(&self) -> Option<Instant> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client whose writes go past this.
    ///
    /// # Errors
    /// When `config` makes no client.
    pub fn client(&self, mut config: Config) -> Result<Client, kube::Error> {
        // A write that the client itself repeated later would not go past this a second time.
        config.default_retry = false;
        let fence = self.clone();
        let layer = FilterLayer::new(move |request: Request<Body>| fence.pass(request));
        Ok(ClientBuilder::try_from(config)?.with_layer(&layer).build())
    }

    fn pass<B>(&self, request: Request<B>) -> Result<Request<B>, Closed> {
        let may_write = || self.until().is_some_and(|until| Instant::now() < until);
        if request.method() == Method::GET || may_write() { Ok(request) } else { Err(Closed) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reads_always_pass_and_writes_while_it_is_open() {
        let fence = Fence::default();
        let passes = |method: Method| fence.pass(Request::builder().method(method).body(()).unwrap()).is_ok();
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        assert!(passes(Method::GET) && !writes.clone().into_iter().any(passes));

        fence.open_until(Instant::now() + Duration::from_secs(60));
        assert!(writes.clone().into_iter().all(passes));

        fence.open_until(Instant::now());
        assert!(passes(Method::GET) && !writes.into_iter().any(passes));
    }
}
