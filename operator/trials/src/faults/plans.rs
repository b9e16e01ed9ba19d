//! The plans: for each thing that a user does, an undisturbed run, and one for each fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use millrace_operator_testkit::ApiServer;
use operator::{
    build::{RuntimeImages, Settings, TraceSettings},
    context::Context,
    controller::reconcile_all,
    telemetry::Metrics,
};
use tokio::task::JoinHandle;

use super::{
    Tally,
    layer::{Faults, Lists, Write},
    workload::{QUIET, Shop, Workload},
};

/// The time in which an operator must be done after a fault.
const LIMIT: Duration = Duration::from_secs(30);

/// How long an operator sees nothing, or what is old.
const BLIND: Duration = Duration::from_secs(3);

/// Writes in a row that are refused.
const REFUSALS: usize = 2;

/// How an undisturbed run ends.
#[derive(Debug)]
struct Reference {
    state: BTreeMap<String, String>,
    /// Objects made and deleted.
    counts: BTreeMap<String, usize>,
    writes: usize,
}

/// A fault.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The operator dies after so many writes, and another one starts.
    CrashAfter(usize),
    /// Nothing of what happens in the meantime is told.
    Unobserved,
    /// The operator is started anew, and is told how things stood before.
    OldView,
    /// The API server refuses the first writes: somebody else was faster, it has too much to do, it has a defect.
    Refused(u16),
}

/// Carries out all plans for these workloads.
pub async fn run(workloads: &[Workload], rules: &[PolicyRule]) -> Tally {
    let server = ApiServer::start().await;
    server.grant("operator", None, rules).await;
    let mut trial = Trial { server, namespaces: 0 };
    let mut tally = Tally::default();
    for &workload in workloads {
        let reference = trial.reference(workload).await;
        eprintln!("operator-faults: {workload:?}: {} writes, {:?}", reference.writes, reference.counts);
        let crashes = (1..=reference.writes).map(Fault::CrashAfter);
        let refused = [409, 429, 500].map(Fault::Refused);
        for fault in crashes.chain([Fault::Unobserved, Fault::OldView]).chain(refused) {
            let result = trial.plan(workload, fault, &reference).await;
            tally.count(&format!("{workload:?}, {fault:?}"), result);
        }
    }
    tally
}

struct Trial {
    server: ApiServer,
    namespaces: usize,
}

/// An operator in a task.
pub struct Running {
    task: JoinHandle<()>,
    /// Its faults.
    pub faults: Faults,
}

impl Running {
    /// Starts one for the namespace of `shop`.
    #[expect(clippy::disallowed_methods, reason = "the task ends with this value")]
    pub fn start(server: &ApiServer, shop: &Shop, faults: Faults) -> Self {
        let images = RuntimeImages { nats: "nats:test".to_owned(), kafka: "kafka:test".to_owned() };
        let settings = Settings { images, traces: TraceSettings::default(), http_allow: "".parse().unwrap() };
        let context = Context::new(faults.client(server.config_of("operator")), settings, Metrics::default());
        let runs = reconcile_all(context, Some(shop.namespace.clone()), std::future::pending());
        Self { task: tokio::spawn(runs), faults }
    }

    /// Ends as if its machine had lost power.
    pub async fn kill(self) -> Vec<Write> {
        self.task.abort();
        drop(self.task.await);
        self.faults.writes()
    }
}

impl Trial {
    async fn shop(&mut self, workload: Workload) -> Shop {
        self.namespaces += 1;
        let namespace = format!("shop-{}", self.namespaces);
        self.server.make_namespace(&namespace).await;
        let shop = Shop { client: self.admin(), namespace };
        shop.prepare(workload).await;
        shop
    }

    fn admin(&self) -> Client {
        self.server.client()
    }

    async fn reference(&mut self, workload: Workload) -> Reference {
        let shop = self.shop(workload).await;
        let operator = self.prepared(&shop, Faults::default()).await;
        let before = operator.faults.writes().len();
        shop.carry_out(workload).await;
        let done = || async { shop.is_done().await };
        settle(&shop, &operator.faults, done).await.expect("an undisturbed operator does its work");
        let writes = operator.kill().await.split_off(before);
        Reference { state: shop.state().await, counts: counts(&shop, &writes), writes: writes.len() }
    }

    /// An operator that has done what was to be done before.
    async fn prepared(&self, shop: &Shop, faults: Faults) -> Running {
        let operator = Running::start(&self.server, shop, faults);
        settle(shop, &operator.faults, || async { shop.is_done().await }).await.expect("what is there is reconciled");
        operator
    }

    /// One that has written nothing: another one has done what was to be done before.
    async fn resumed(&self, shop: &Shop) -> Running {
        drop(self.prepared(shop, Faults::default()).await.kill().await);
        self.prepared(shop, Faults::default()).await
    }

    async fn plan(&mut self, workload: Workload, fault: Fault, reference: &Reference) -> Result<(), String> {
        let shop = self.shop(workload).await;
        let (operator, mut writes) = match fault {
            Fault::CrashAfter(writes) => self.crash(workload, &shop, writes).await,
            Fault::Unobserved => self.unobserved(workload, &shop).await,
            Fault::OldView => self.old_view(workload, &shop).await,
            Fault::Refused(status) => {
                let operator = self.resumed(&shop).await;
                operator.faults.refuse(REFUSALS, status);
                shop.carry_out(workload).await;
                (operator, Vec::new())
            }
        };
        let same = || async { shop.state().await == reference.state };
        if let Err(why) = settle(&shop, &operator.faults, same).await {
            let found = shop.state().await;
            let differs = |name: &&String| found.get(*name) != reference.state.get(*name);
            let names: BTreeSet<&String> = found.keys().chain(reference.state.keys()).collect();
            let told: Vec<_> = names
                .iter()
                .copied()
                .filter(differs)
                .map(|name| (name, found.get(name), reference.state.get(name)))
                .collect();
            return Err(format!("{why}: {told:#?}; written: {:?}", operator.faults.writes()));
        }
        writes.extend(operator.kill().await);
        let found = counts(&shop, &writes);
        if found == reference.counts { Ok(()) } else { Err(format!("{found:?} instead of {:?}", reference.counts)) }
    }

    async fn crash(&self, workload: Workload, shop: &Shop, after: usize) -> (Running, Vec<Write>) {
        let first = self.prepared(shop, Faults::default()).await;
        drop(first.kill().await);
        let crashing = Running::start(&self.server, shop, Faults::default().crash_after(after));
        shop.carry_out(workload).await;
        let deadline = Instant::now() + LIMIT;
        // A Job is completed while the operator waits for it.
        while tokio::time::timeout(Duration::from_millis(100), crashing.faults.crashed()).await.is_err() {
            assert!(Instant::now() < deadline, "{workload:?} has no write {after}: {:?}", crashing.faults.writes());
            shop.complete_job().await;
        }
        let writes = crashing.kill().await;
        (Running::start(&self.server, shop, Faults::default()), writes)
    }

    async fn unobserved(&self, workload: Workload, shop: &Shop) -> (Running, Vec<Write>) {
        let operator = self.resumed(shop).await;
        operator.faults.hold();
        shop.waver(workload).await;
        tokio::time::sleep(BLIND).await;
        operator.faults.lose();
        (operator, Vec::new())
    }

    async fn old_view(&self, workload: Workload, shop: &Shop) -> (Running, Vec<Write>) {
        let first = self.prepared(shop, Faults::default()).await;
        drop(first.kill().await);
        // Its lists are of before, and it does what there is to do.
        let operator = Running::start(&self.server, shop, Faults::default());
        let listed = || async { (operator.faults.lists().len() >= LISTS).then_some(()) };
        millrace_operator_testkit::wait_for("everything is listed", LIMIT, listed).await;
        let lists: Lists = operator.faults.lists();
        shop.carry_out(workload).await;
        settle(shop, &operator.faults, || async { shop.is_done().await }).await.expect("it does its work");
        let writes = operator.kill().await;
        let operator = Running::start(&self.server, shop, Faults::default().with_old_view(lists));
        tokio::time::sleep(BLIND).await;
        operator.faults.catch_up();
        (operator, writes)
    }
}

/// Kinds that an operator lists.
pub const LISTS: usize = 10;

/// Waits until `is_right` and nothing has been written for a while.
async fn settle<F: Future<Output = bool>>(
    shop: &Shop,
    faults: &Faults,
    is_right: impl Fn() -> F,
) -> Result<(), String> {
    let deadline = Instant::now() + LIMIT;
    let (mut writes, mut since) = (faults.writes().len(), Instant::now());
    loop {
        shop.complete_job().await;
        let right = is_right().await;
        if faults.writes().len() != writes || !right {
            (writes, since) = (faults.writes().len(), Instant::now());
        } else if since.elapsed() >= QUIET {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("it is not done in {LIMIT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How often objects were made and deleted, by what they are.
fn counts(shop: &Shop, writes: &[Write]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for write in writes {
        let what = match (write.method.as_str(), write.status) {
            (_, 201) => "made",
            ("DELETE", 200..300) => "deleted",
            _ => continue,
        };
        let path = write.path.rsplit_once(&shop.namespace).map_or(write.path.as_str(), |(_, rest)| rest);
        // Events have names of their own, and say what happened: a crash may lose one.
        if !path.contains("/events") {
            *counts.entry(format!("{what} {path}")).or_default() += 1;
        }
    }
    counts
}
