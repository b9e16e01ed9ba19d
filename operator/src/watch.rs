//! One watch: lists in pages, then follows what changes, for as long as the operator runs.
//!
//! `kube`'s own watcher says nothing while it makes a quiet watch anew, so a dead one looks like a quiet one; it waits for a
//! list for ever; and its pauses do not know of each other. Here each answer is a sign of life, each wait has a bound, and
//! all watches share one [`Gate`].
//!
//! Guarantees: a connection that dies without a word is noticed after [`SILENCE_MAX`]; after any failure it goes on where it
//! was, or lists anew where the API server no longer knows that place.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::{context::answered, error::Error, gate::Gate};

/// A watch is made anew after this time, by the API server.
const WATCH_SECONDS: u32 = 60;

/// A watch that has not ended by then is dead.
const SILENCE_MAX: Duration = Duration::from_secs(65);

/// Objects in one page of a list: what is held at once beside what is kept.
const PAGE: u32 = 250;

/// Pause after failures in a row that are not the silence of the server: from the first to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Refusals in a row, over some four seconds, that are believed: an API server that has just started refuses for a moment
/// what it allows.
const REFUSALS: u32 = 5;

/// What a watch tells.
pub trait Sink<K> {
    /// A list begins.
    fn begin(&self);
    /// A page of it has come.
    fn listed(&self, page: Vec<K>);
    /// It is complete, as of `version`.
    fn complete(&self, version: u64);
    /// An object is new or has changed.
    fn changed(&self, object: K);
    /// An object is gone.
    fn gone(&self, object: K);
    /// There is nothing new up to `version`.
    fn up_to(&self, version: u64);
    /// What has been listed is being followed.
    fn following(&self);
    /// The API server answers.
    fn alive(&self);
    /// The API server refuses to answer, because it may not.
    fn refused(&self, why: &str);
}

/// What is watched.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// For logs and conditions, for example `Deployments`.
    pub what: &'static str,
    /// Labels that an object must have; nothing for all.
    pub labels: Option<&'static str>,
}

/// Watches for ever.
pub async fn watch<K>(api: Api<K>, selection: Selection, gate: &Gate, sink: &impl Sink<K>)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut place: Option<String> = None;
    let mut failures = 0_u32;
    loop {
        gate.pass().await;
        let begun = Instant::now();
        let (ended, useful) = match &mut place {
            None => (list(&api, selection, sink).await.map(|version| place = Some(version)), true),
            // One that ends at once, again and again, is no success.
            Some(version) => (follow(&api, selection, version, sink).await, begun.elapsed() >= PAUSE_MIN),
        };
        failures = if ended.is_ok() && useful { 0 } else { failures.saturating_add(1) };
        let Err(error) = ended else {
            tokio::time::sleep(pause(failures)).await;
            continue;
        };
        warn!(what = selection.what, %error, failures, "a watch is made anew");
        if error.is_silence() {
            // The gate is the pause, for all watches together.
            gate.silent();
            continue;
        }
        sink.alive();
        if error.category() == "forbidden" && failures >= REFUSALS {
            sink.refused(&error.to_string());
        }
        // It goes on from where it was, unless the API server no longer knows that place.
        if error.is_gone() {
            place = None;
        }
        tokio::time::sleep(pause(failures)).await;
    }
}

fn pause(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let longest = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(PAUSE_MAX);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Lists all, and says as of which version.
async fn list<K>(api: &Api<K>, selection: Selection, sink: &impl Sink<K>) -> Result<String, Error>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    sink.begin();
    let mut parameters = ListParams { label_selector: selection.labels.map(str::to_owned), ..ListParams::default() };
    parameters.limit = Some(PAGE);
    loop {
        let page = answered("list what is watched", api.list(&parameters)).await?;
        sink.alive();
        sink.listed(page.items);
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        if next.is_none() {
            let version = page.metadata.resource_version.unwrap_or_default();
            sink.complete(number(&version));
            return Ok(version);
        }
        parameters.continue_token = next;
    }
}

/// Follows what changes from `version` on until the watch ends, and moves `version` along.
async fn follow<K>(api: &Api<K>, selection: Selection, version: &mut String, sink: &impl Sink<K>) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let parameters = WatchParams {
        label_selector: selection.labels.map(str::to_owned),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        ..WatchParams::default()
    };
    let dead = Instant::now() + SILENCE_MAX;
    let mut events = answered("watch", api.watch(&parameters, version)).await?.boxed();
    sink.alive();
    sink.following();
    loop {
        let Ok(event) = timeout_at(dead, events.try_next()).await else {
            debug!(what = selection.what, "a watch did not end in time");
            return Err(Error::TimedOut("watch"));
        };
        let api_error = |source| Error::Api { operation: "watch", source: Box::new(source) };
        let Some(event) = event.map_err(api_error)? else { return Ok(()) };
        sink.alive();
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                *version = object.resource_version().unwrap_or_default();
                sink.changed(object);
            }
            WatchEvent::Deleted(object) => {
                *version = object.resource_version().unwrap_or_default();
                sink.gone(object);
            }
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                sink.up_to(number(version));
            }
            WatchEvent::Error(status) => return Err(api_error(kube::Error::Api(status))),
        }
    }
}

/// A version as a number, so that two can be compared: the API server promises that from Kubernetes 1.35 on, and etcd has
/// always kept it.
pub fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        assert_eq!(pause(0), Duration::ZERO);
        assert!(pause(1) <= PAUSE_MIN && pause(3) >= PAUSE_MIN);
        for failures in [10, 1000, u32::MAX] {
            assert!(pause(failures) >= PAUSE_MAX / 2 && pause(failures) <= PAUSE_MAX);
        }
    }
}
