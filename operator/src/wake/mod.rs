//! To no pods and back: who has no pods cannot report a lag, so the operator asks the broker, with the consumer's own
//! credentials.
//!
//! An administrator opts in. The rule is one: there are no pods only while the broker itself says that nothing waits, nothing
//! is unacked, and the durable is there to keep what comes. Whatever keeps the operator from knowing that leaves one pod.
//!
//! This is the only place of the operator that knows a broker.

mod options;
mod secrets;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use kube::{Client, Resource, ResourceExt as _};
use millrace_core::health::{Health, Part, Trouble, TroubleReason};
use millrace_nats::{LagProbe, connect, observe};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::{error::Error, validate::Valid};

/// How often a broker is asked for a consumer that sleeps. With the start of a visit it is what an event waits at most until
/// its pods are asked for: less than two seconds.
pub const ASLEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long it may be only the broker that is looked at. Then everything is, as for a consumer that is awake.
const LOOK_AT_ALL_AFTER: Duration = Duration::from_secs(10);

/// The time that connecting, and making the durable, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections of objects that were not asked for this long are closed: their objects are gone, or have pods for good.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// How often it is looked for such, at a visit to whatever consumer.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// Whether consumers may go to no pods.
#[derive(Clone, Debug, clap::Args)]
pub struct WakeSettings {
    /// Lets consumers with `scaling.minReplicas: 0` go to no pods: the operator reads the Secrets that their brokers need,
    /// connects, makes the durable, and asks every second what waits.
    #[arg(long, env = "SCALE_TO_ZERO")]
    pub scale_to_zero: bool,
    /// Where the Secrets that are read are kept, for the client library: a folder in memory.
    #[arg(long, env = "SECRETS_DIR", default_value = "/run/millrace")]
    pub secrets_dir: PathBuf,
}

/// What keeps a consumer from having no pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hindrance {
    /// The administrator has not opted in.
    NotEnabled,
    /// The operator may not read a Secret of the broker.
    SecretForbidden,
    /// The broker does not tell.
    Broker(TroubleReason),
}

/// What is known of consumers that may have no pods.
#[derive(Debug)]
pub struct Wake {
    folder: Option<PathBuf>,
    sleepers: std::sync::Mutex<HashMap<String, Arc<Mutex<Sleeper>>>>,
    /// When it was looked for those that are gone.
    looked: std::sync::Mutex<Instant>,
}

#[derive(Debug)]
struct Sleeper {
    asked: Instant,
    /// The generation of the spec that the connection was made by.
    generation: Option<i64>,
    probe: Option<LagProbe>,
    /// When everything was looked at and it had no pods.
    asleep_since: Option<Instant>,
}

impl Wake {
    /// Nobody has opted in.
    pub fn disabled() -> Self {
        Self::with(None)
    }

    /// As the administrator has it.
    pub fn new(settings: WakeSettings) -> Self {
        let WakeSettings { scale_to_zero, secrets_dir } = settings;
        Self::with(scale_to_zero.then_some(secrets_dir))
    }

    fn with(folder: Option<PathBuf>) -> Self {
        Self { folder, sleepers: std::sync::Mutex::default(), looked: std::sync::Mutex::new(Instant::now()) }
    }

    /// What waits for a consumer at its broker, with what is unacked. Its durable is there from then on.
    pub async fn ask(
        &self,
        client: &Client,
        object: &impl Resource<DynamicType = ()>,
        valid: &Valid,
    ) -> Result<u64, Hindrance> {
        let folder = self.folder.as_deref().ok_or(Hindrance::NotEnabled)?;
        let uid = object.uid().unwrap_or_default();
        let sleeper = self.sleeper(&uid);
        let mut sleeper = sleeper.lock().await;
        (sleeper.asked, sleeper.asleep_since) = (Instant::now(), None);
        if sleeper.generation != object.meta().generation {
            (sleeper.generation, sleeper.probe) = (object.meta().generation, None);
        }
        let probe = match sleeper.probe.take() {
            Some(probe) => probe,
            None => open(client, &folder.join(&uid), valid).await?,
        };
        // A probe that does not know is not kept: its durable may be gone, or its credentials are not those of today.
        let waiting = probe.unsettled().await.ok_or(Hindrance::Broker(TroubleReason::Failing))?;
        sleeper.probe = Some(probe);
        Ok(waiting)
    }

    /// A consumer has no pods, and everything about it is as it is to be.
    pub async fn sleeps(&self, object: &impl Resource<DynamicType = ()>) {
        let sleeper = self.sleeper(&object.uid().unwrap_or_default());
        sleeper.lock().await.asleep_since = Some(Instant::now());
    }

    /// Whether a consumer that has no pods still needs none, so that there is no need to look at anything else.
    pub async fn is_still_asleep(&self, object: &impl Resource<DynamicType = ()>) -> bool {
        self.forget_gone();
        let known = self.lock().get(&object.uid().unwrap_or_default()).cloned();
        let Some(sleeper) = known else { return false };
        let mut sleeper = sleeper.lock().await;
        let is_fresh = sleeper.asleep_since.is_some_and(|since| since.elapsed() < LOOK_AT_ALL_AFTER);
        if !is_fresh || sleeper.generation != object.meta().generation {
            return false;
        }
        sleeper.asked = Instant::now();
        match &sleeper.probe {
            Some(probe) => probe.unsettled().await == Some(0),
            None => false,
        }
    }

    fn sleeper(&self, uid: &str) -> Arc<Mutex<Sleeper>> {
        let fresh = || Sleeper { asked: Instant::now(), generation: None, probe: None, asleep_since: None };
        Arc::clone(self.lock().entry(uid.to_owned()).or_insert_with(|| Arc::new(Mutex::new(fresh()))))
    }

    /// Closes the connections of objects that are gone, and removes what was read of their Secrets.
    fn forget_gone(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() < FORGET_INTERVAL {
            return;
        }
        *looked = Instant::now();
        self.lock().retain(|uid, sleeper| {
            let is_gone = sleeper.try_lock().is_ok_and(|sleeper| sleeper.asked.elapsed() > FORGET_AFTER);
            if let (true, Some(folder)) = (is_gone, &self.folder) {
                secrets::forget(&folder.join(uid));
            }
            !is_gone
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Mutex<Sleeper>>>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects and sees to it that the durable is there.
async fn open(client: &Client, folder: &Path, valid: &Valid) -> Result<LagProbe, Hindrance> {
    let told = |hindrance: Hindrance, why: &dyn std::fmt::Display| {
        warn!(namespace = valid.namespace, name = valid.name, %why, "the broker cannot be asked");
        hindrance
    };
    let broken = |trouble: Trouble| told(Hindrance::Broker(trouble.reason), &trouble.message);
    secrets::fetch(client, folder, valid).await.map_err(|error| match error {
        Error::Io(_) => told(Hindrance::Broker(TroubleReason::Failing), &error),
        error if error.category() == "forbidden" => told(Hindrance::SecretForbidden, &error),
        error => told(Hindrance::Broker(TroubleReason::SecretMissing), &error),
    })?;
    let Some((connecting, consuming)) = options::options(valid, folder) else {
        return Err(told(Hindrance::Broker(TroubleReason::Unsupported), &"only broker.jetStream can be asked"));
    };
    // Its own: whether the operator reaches a broker is no word about the pods.
    let health = Arc::new(Health::starting([Part::Broker]));
    let opening = async { observe(&connect(&connecting, &health).await?, &consuming).await };
    let silent = |_| Trouble::new(TroubleReason::Unreachable, "no answer in time");
    let probe =
        tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(silent).map_err(broken)?.map_err(broken)?;
    info!(namespace = valid.namespace, name = valid.name, "the broker is asked what waits");
    Ok(probe)
}

impl Hindrance {
    /// The reason of the condition `ScalingActive`. Stable.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotEnabled => "ScaleToZeroNotEnabled",
            Self::SecretForbidden => "SecretNotReadable",
            Self::Broker(TroubleReason::SecretMissing) => "SecretMissing",
            Self::Broker(TroubleReason::SecretInvalid) => "SecretInvalid",
            Self::Broker(TroubleReason::Unauthorized) => "Unauthorized",
            Self::Broker(TroubleReason::TlsFailed) => "TlsFailed",
            Self::Broker(TroubleReason::StreamNotFound) => "StreamNotFound",
            Self::Broker(TroubleReason::DeadLetterStreamNotFound) => "DeadLetterStreamNotFound",
            Self::Broker(TroubleReason::DurableConflict) => "DurableConflict",
            Self::Broker(TroubleReason::Unreachable) => "Unreachable",
            Self::Broker(_) => "BrokerNotAsked",
        }
    }

    /// What to do, for a person.
    pub fn message(self) -> &'static str {
        match self {
            Self::NotEnabled => {
                "one pod stays: the operator may not ask brokers what waits; set scaleToZero.enabled of its chart, or scaling.minReplicas: 1"
            }
            Self::SecretForbidden => {
                "one pod stays: the operator may not read a Secret of the broker; name it in scaleToZero.secretNames of its chart"
            }
            Self::Broker(_) => "one pod stays: the broker does not tell the operator what waits; its log says why",
        }
    }
}
