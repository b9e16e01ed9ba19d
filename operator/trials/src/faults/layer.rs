//! Faults between the operator and the API server, as a layer of its client. The operator knows nothing of it.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, DynBody},
};
use tokio::sync::{Notify, watch};
use tower::{BoxError, Layer, Service};

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;
type Answering = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

/// Faults of one operator. Clones are the same.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    crashed: Notify,
    watches: watch::Sender<Watches>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests begun.
    requests: usize,
    writes: Vec<Write>,
    crash_after: Option<usize>,
    has_crashed: bool,
    /// Lists that are answered from what an earlier operator was told.
    old_lists: Option<Lists>,
    /// First answer to each list.
    lists: Lists,
    /// Writes that are refused, and how.
    refusals: (usize, u16),
    /// Paths whose next watch is told that its place is gone.
    gone: Vec<String>,
}

/// Answers to lists, by path and query.
pub type Lists = HashMap<String, Bytes>;

/// A write that has been answered.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Write {
    /// The method.
    pub method: String,
    /// What it was for.
    pub path: String,
    /// The answer.
    pub status: u16,
}

/// How the bodies of watches flow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Watches {
    /// Nothing comes through.
    held: bool,
    /// Those begun in an earlier age have ended.
    age: u32,
    /// Those begun in an age before this one are dead: they neither say anything nor end.
    dead_before: u32,
}

impl Default for Faults {
    fn default() -> Self {
        let (watches, _) = watch::channel(Watches::default());
        Self(Arc::new(Shared { state: Mutex::default(), crashed: Notify::new(), watches }))
    }
}

impl Faults {
    /// A client with these faults.
    pub fn client(&self, config: Config) -> Client {
        ClientBuilder::try_from(config).unwrap().with_layer(self).build()
    }

    /// After so many writes nothing is answered any more, the last of them included.
    #[must_use]
    pub fn crash_after(self, writes: usize) -> Self {
        self.state().crash_after = Some(writes);
        self
    }

    /// The next `times` writes are refused with `status`.
    pub fn refuse(&self, times: usize, status: u16) {
        self.state().refusals = (times, status);
    }

    /// Lists are answered from `lists`, and watches say nothing, until [`Faults::catch_up`].
    #[must_use]
    pub fn with_old_view(self, lists: Lists) -> Self {
        self.state().old_lists = Some(lists);
        self.hold();
        self
    }

    /// Watches go on from where the old view left off.
    pub fn catch_up(&self) {
        self.state().old_lists = None;
        self.0.watches.send_modify(|watches| watches.held = false);
    }

    /// Waits for the crash.
    pub async fn crashed(&self) {
        let crashed = self.0.crashed.notified();
        if !self.state().has_crashed {
            crashed.await;
        }
    }

    /// From now on watches say nothing.
    pub fn hold(&self) {
        self.0.watches.send_modify(|watches| watches.held = true);
    }

    /// What watches would have said meanwhile is lost: they end, and their places are gone.
    pub fn lose(&self) {
        self.state().gone = vec!["*".to_owned()];
        self.0.watches.send_modify(|watches| *watches = Watches { held: false, age: watches.age + 1, ..*watches });
    }

    /// The watches that there are say nothing any more, and do not end. New ones work.
    pub fn kill_watches_silently(&self) {
        self.0.watches.send_modify(|watches| watches.dead_before += 1);
    }

    /// Requests begun so far.
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// Writes answered so far.
    pub fn writes(&self) -> Vec<Write> {
        self.state().writes.clone()
    }

    /// The first answer to each list.
    pub fn lists(&self) -> Lists {
        self.state().lists.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a write that has been answered, and says whether the operator lives to see the answer.
    fn note(&self, write: Write) -> bool {
        let mut state = self.state();
        state.writes.push(write);
        let crashes = state.crash_after == Some(state.writes.len());
        if crashes {
            state.has_crashed = true;
            self.0.crashed.notify_waiters();
        }
        !crashes
    }

    /// What flows of the body of a watch.
    fn held(&self, body: Box<DynBody>) -> UnsyncBoxBody<Bytes, BoxError> {
        let gate = self.0.watches.subscribe();
        let begun = *gate.borrow();
        let frames = stream::unfold((body, gate), move |(mut body, mut gate)| async move {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                _ = gate.wait_for(|now| now.age != begun.age) => return None,
            };
            let flows = |now: &Watches| now.age != begun.age || !(now.held || now.dead_before != begun.dead_before);
            let ended = gate.wait_for(flows).await.ok()?.age != begun.age;
            // Its end is held back too.
            frame.filter(|_| !ended).map(|frame| (frame, (body, gate)))
        });
        StreamBody::new(frames.boxed()).boxed_unsync()
    }
}

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Faulty { faults: self.clone(), inner }
    }
}

/// A client's service with faults.
#[derive(Debug)]
pub struct Faulty<S> {
    faults: Faults,
    inner: S,
}

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let faults = self.faults.clone();
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let kind = Kind::of(request.method(), &path);
        {
            let mut state = faults.state();
            state.requests += 1;
            if state.has_crashed {
                return futures::future::pending().boxed();
            }
            if kind == Kind::Watch && !state.gone.is_empty() && !state.gone.contains(&collection(&path)) {
                state.gone.push(collection(&path));
                return std::future::ready(Ok(refusal(410, "Expired"))).boxed();
            }
            let (refusals, status) = state.refusals;
            if kind == Kind::Write && refusals > 0 {
                state.refusals.0 -= 1;
                return std::future::ready(Ok(refusal(status, "Refused"))).boxed();
            }
            let old = state.old_lists.as_ref().filter(|_| kind == Kind::List).and_then(|lists| lists.get(&path));
            if let Some(old) = old {
                let answer = Response::new(whole(old.clone()));
                return std::future::ready(Ok(answer)).boxed();
            }
        }
        let method = request.method().to_string();
        let answering = self.inner.call(request);
        async move {
            let (head, body) = answering.await?.into_parts();
            match kind {
                Kind::Watch => Ok(Response::from_parts(head, faults.held(body))),
                Kind::List => {
                    let body = body.collect().await?.to_bytes();
                    faults.state().lists.entry(path).or_insert_with(|| body.clone());
                    Ok(Response::from_parts(head, whole(body)))
                }
                Kind::Get => Ok(Response::from_parts(head, body.boxed_unsync())),
                Kind::Write => {
                    let path = path.split('?').next().unwrap_or_default().to_owned();
                    if !faults.note(Write { method, path, status: head.status.as_u16() }) {
                        return std::future::pending().await;
                    }
                    Ok(Response::from_parts(head, body.boxed_unsync()))
                }
            }
        }
        .boxed()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Get,
    List,
    Watch,
    Write,
}

impl Kind {
    fn of(method: &Method, path: &str) -> Self {
        if method != Method::GET {
            return Self::Write;
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        // A collection ends with the name of its kind: after its namespace that is the only thing.
        let parts = path.rsplit_once("/namespaces/").map_or(0, |(_, rest)| rest.split('/').count());
        match (query.contains("watch=true"), parts) {
            (true, _) => Self::Watch,
            (false, 2) => Self::List,
            _ => Self::Get,
        }
    }
}

fn collection(path: &str) -> String {
    path.split('?').next().unwrap_or_default().to_owned()
}

fn whole(body: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// An answer that refuses.
fn refusal(code: u16, reason: &str) -> Answer {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "code": code,
        "message": "this is a test",
    });
    let mut answer = Response::new(whole(Bytes::from(status.to_string())));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}
