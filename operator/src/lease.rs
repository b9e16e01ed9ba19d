//! Leader election: of several operators one works, the one that holds a `Lease`. The times and fields mean what they mean
//! for client-go. What is to be done is decided in [`mod@decide`], here it is carried out; [`fence`] refuses the writes of a process that
//! may not write any more.

pub mod decide;
pub mod fence;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, Config, ResourceExt as _, api::PostParams};
use tracing::{info, warn};

use crate::{
    context::{FIELD_MANAGER, answered},
    error::Error,
    lease::{
        decide::{Action, Mine, Observed, Record, Timing, decide},
        fence::Fence,
    },
};

/// Tries are spread by up to this share of their pause, as client-go does.
const JITTER: f64 = 0.2;

/// Whether and how an operator asks for the lease.
#[derive(Clone, Debug, clap::Args)]
pub struct Election {
    /// Whether several operators may run: the one that holds the Lease works, the others stand by.
    #[arg(long = "leader-election", env = "LEADER_ELECTION", default_value_t = false, action = clap::ArgAction::Set)]
    pub enabled: bool,
    /// Name of the Lease, in the namespace that the operator runs in.
    #[arg(long, env = "LEASE_NAME", default_value = "millrace-operator")]
    pub lease_name: String,
    /// Seconds for which the others leave a Lease alone that does not change. Longer than the deadline of its holder.
    #[arg(long, env = "LEASE_DURATION_SECONDS", default_value_t = 15)]
    pub lease_duration_seconds: u16,
    /// Seconds after a renewal that succeeded for which its holder writes; then it ends.
    #[arg(long, env = "LEASE_RENEW_DEADLINE_SECONDS", default_value_t = 10)]
    pub lease_renew_deadline_seconds: u16,
    /// Seconds between two tries to renew or to take it.
    #[arg(long, env = "LEASE_RETRY_PERIOD_SECONDS", default_value_t = 2)]
    pub lease_retry_period_seconds: u16,
}

/// One that may come to lead.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    observed: Observed,
    fence: Fence,
}

impl Election {
    fn timing(&self) -> Result<Timing, Error> {
        let seconds = |seconds: u16| Duration::from_secs(seconds.into());
        let timing = Timing {
            lease: seconds(self.lease_duration_seconds),
            renew_deadline: seconds(self.lease_renew_deadline_seconds),
            retry: seconds(self.lease_retry_period_seconds),
        };
        let fits = timing.lease > timing.renew_deadline
            && timing.renew_deadline > timing.retry.mul_f64(1.0 + JITTER)
            && !timing.retry.is_zero();
        if fits { Ok(timing) } else { Err(Error::Election) }
    }
}

/// The client to work with and, where there is an election, the candidate; its writes pass only while it leads.
///
/// # Errors
/// When the times do not fit each other, or there is no way to the API server.
pub async fn connect(election: &Election) -> Result<(Client, Option<Candidate>), Error> {
    let no_client = |source| Error::Api { operation: "connect to the API server", source: Box::new(source) };
    let config = Config::infer().await.map_err(|error| no_client(kube::Error::InferConfig(error)))?;
    if !election.enabled {
        return Ok((Client::try_from(config).map_err(no_client)?, None));
    }
    let candidate = Candidate::new(config.clone(), election)?;
    Ok((candidate.fence.client(config).map_err(no_client)?, Some(candidate)))
}

/// Does `work` while this process leads; without a candidate, always. Ends when that has ended, when `stop` is ready before it has
/// begun, and with an error when the lease is lost.
///
/// # Errors
/// [`Error::LeaseLost`]: this process must not go on.
pub async fn lead<W>(
    candidate: Option<Candidate>,
    stop: impl Future<Output = ()>,
    work: impl Future<Output = W>,
) -> Result<(), Error> {
    let Some(mut candidate) = candidate else {
        work.await;
        return Ok(());
    };
    tokio::select! {
        () = candidate.acquire() => {}
        () = stop => return Ok(()),
    }
    tokio::select! {
        _ = work => candidate.release().await,
        lost = candidate.hold() => return Err(lost),
    }
    Ok(())
}

impl Candidate {
    fn new(config: Config, election: &Election) -> Result<Self, Error> {
        let timing = election.timing()?;
        // A client of its own: the lease is renewed past the fence, and never waits behind other requests.
        let client = Client::try_from(config)
            .map_err(|source| Error::Api { operation: "connect to the API server", source: Box::new(source) })?;
        let host = std::env::var("POD_NAME").unwrap_or_else(|_| format!("process-{}", std::process::id()));
        Ok(Self {
            leases: Api::default_namespaced(client),
            name: election.lease_name.clone(),
            // A process that starts anew in the same pod is somebody else: it does not know what the one before had begun.
            identity: format!("{host}_{:016x}", fastrand::u64(..)),
            timing,
            observed: Observed::default(),
            fence: Fence::default(),
        })
    }

    /// Waits until this candidate leads.
    pub async fn acquire(&mut self) {
        info!(lease = self.name, identity = self.identity, "standing by");
        loop {
            // What went wrong may heal: nothing is lost but time.
            if let Err(error) = self.try_once().await {
                warn!(%error, "the lease cannot be asked for");
            }
            if self.fence.until().is_some() {
                info!(lease = self.name, identity = self.identity, "leading");
                return;
            }
            tokio::time::sleep(self.pause()).await;
        }
    }

    /// Renews for as long as that works, and says why it did not.
    pub async fn hold(&mut self) -> Error {
        loop {
            let Some(until) = self.fence.until() else { return Error::LeaseLost };
            let renewal = async {
                tokio::time::sleep(self.pause()).await;
                self.try_once().await
            };
            match tokio::time::timeout_at(until.into(), renewal).await {
                Ok(Ok(())) => {}
                Ok(Err(Error::LeaseLost)) | Err(_) => break,
                Ok(Err(error)) => warn!(%error, "the lease is not renewed"),
            }
        }
        self.fence.close();
        Error::LeaseLost
    }

    /// Gives the lease to whoever asks next. Called when nothing is written any more.
    pub async fn release(mut self) {
        self.fence.close();
        if let Err(error) = self.give_up().await {
            warn!(%error, "the lease is not released: the others wait until it has ended");
        }
    }

    /// Looks, decides, writes.
    async fn try_once(&mut self) -> Result<(), Error> {
        let lease = self.bounded(answered("get the Lease", self.leases.get_opt(&self.name))).await?;
        self.observed.note(lease.as_ref().map(|lease| record(lease, self.timing.lease)), Instant::now());
        let mine = Mine { identity: self.identity.clone(), writes_until: self.fence.until() };
        let started = Instant::now();
        let action = decide(started, &self.observed, &mine);
        let spec = match action {
            Action::Wait => return Ok(()),
            Action::Lost => return Err(Error::LeaseLost),
            Action::Create | Action::Take | Action::Renew => self.spec(lease.as_ref(), action),
        };
        match self.write(lease, spec).await {
            Ok(()) => {
                // What was sent counts from before it was sent: so the others have waited longer than this.
                self.fence.open_until(started + self.timing.renew_deadline);
                Ok(())
            }
            // Somebody else has written in between; the next look says who.
            Err(error) if error.category() == "conflict" => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn give_up(&mut self) -> Result<(), Error> {
        let lease = self.bounded(answered("get the Lease", self.leases.get_opt(&self.name))).await?;
        let Some(lease) = lease else { return Ok(()) };
        if record(&lease, self.timing.lease).holder != self.identity {
            return Ok(());
        }
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..lease.spec.clone().unwrap_or_default()
        };
        self.write(Some(lease), spec).await
    }

    /// Makes the lease, or replaces just the one that was seen: its version goes with it.
    async fn write(&self, seen: Option<Lease>, spec: LeaseSpec) -> Result<(), Error> {
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let fresh = || Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        };
        let (exists, mut lease) = (seen.is_some(), seen.unwrap_or_else(fresh));
        lease.spec = Some(spec);
        let written = async {
            if exists {
                self.leases.replace(&self.name, &parameters, &lease).await
            } else {
                self.leases.create(&parameters, &lease).await
            }
        };
        self.bounded(answered("write the Lease", written)).await.map(drop)
    }

    fn spec(&self, lease: Option<&Lease>, action: Action) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let old = lease.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or_default();
        let (acquired, transitions) = match action {
            Action::Renew => (old.acquire_time.clone().unwrap_or_else(|| now.clone()), transitions),
            Action::Take => (now.clone(), transitions.saturating_add(1)),
            Action::Create | Action::Wait | Action::Lost => (now.clone(), transitions),
        };
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: Some(acquired),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..old
        }
    }

    /// An answer that takes half of the deadline leaves time for another try.
    async fn bounded<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.timing.renew_deadline / 2;
        tokio::time::timeout(limit, request).await.unwrap_or(Err(Error::TimedOut("use the Lease")))
    }

    fn pause(&self) -> Duration {
        self.timing.retry.mul_f64(1.0 + JITTER * fastrand::f64())
    }
}

/// What counts of a lease. A duration that somebody has taken out or made nonsense of is ours.
fn record(lease: &Lease, usual: Duration) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        version: lease.resource_version().unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        lease: seconds.filter(|seconds| *seconds > 0).map_or(usual, Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_do_not_fit_each_other_are_refused() {
        for (lease, deadline, retry, fits) in
            [(15, 10, 2, true), (10, 10, 2, false), (15, 2, 2, false), (15, 10, 0, false), (3, 2, 1, true)]
        {
            let election = Election {
                enabled: true,
                lease_name: "test".to_owned(),
                lease_duration_seconds: lease,
                lease_renew_deadline_seconds: deadline,
                lease_retry_period_seconds: retry,
            };
            assert_eq!(election.timing().is_ok(), fits, "{election:?}");
        }
    }
}
