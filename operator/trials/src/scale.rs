//! Thousands of consumers: how long until each has its Deployment and its status, how many writes that takes, how much memory,
//! and how long an edit waits meanwhile.

use std::{
    array, fmt,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use millrace_operator_testkit::{ApiServer, OperatorProcess, wait_for};
use millrace_testkit::usage::{Memory, processor_time};

use crate::{
    consumers::{deployments, edit, is_told, make, namespaces, told},
    requests::Writes,
};

/// The time for everything at once, whatever the machine does besides.
const LIMIT: Duration = Duration::from_secs(900);

/// Consumers that tell how long one takes where there are few.
const FEW: usize = 100;

/// Children and status of a consumer: the objects that are written for it.
pub const OBJECTS_EACH: u64 = 4;

/// Writes that an edit takes: the configuration, the pods, and the status.
const WRITES_OF_EDIT: u64 = 3;

/// Edits while there is most to do.
const EDITS: usize = 5;

/// Pause between two counts of what there is: at first, as a share of what has passed, and at most. To count thousands of
/// objects costs the API server more than to write one, and what is measured has to wait for that.
const COUNT_PAUSE: Duration = Duration::from_millis(10);
const COUNT_SHARE: u32 = 200;
const COUNT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Writes that the edits during a flood take together.
pub fn writes_of_edits() -> u64 {
    EDITS as u64 * WRITES_OF_EDIT
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Consumers in all.
    pub objects: usize,
    /// From the start of an operator that finds them all new, to the last status.
    pub time: Duration,
    /// Writes for all of them.
    pub writes: Writes,
    /// Writes of the next operator, which finds everything done, and in quiet.
    pub restart_writes: Writes,
    /// In quiet, and at its most.
    pub memory: Memory,
    /// The longest time that an edit waited while there was most to do.
    pub edit: Duration,
    /// Time for one among all of them, by that for one among few.
    pub growth: f64,
    /// Processor time in a quiet second, in thousandths of a core.
    pub idle_millicores: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "scale: objects={} seconds={:.1} writes_per_object={:.2} restart_writes={} rss_mb={} rss_peak_mb={} edit_seconds={:.2} growth={:.2}",
            self.objects,
            self.time.as_secs_f64(),
            self.writes_each(),
            self.restart_writes.total(),
            mib(self.memory.now),
            mib(self.memory.peak),
            self.edit.as_secs_f64(),
            self.growth,
        )
    }
}

/// Bytes in MiB.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1024 * 1024)
}

impl Outcome {
    /// The goals that it is short of. They are for 10,000 consumers, or fewer, on two cores.
    pub fn missed(&self) -> Vec<&'static str> {
        let (memory, peak) = (mib(self.memory.now), mib(self.memory.peak));
        let goals = [
            (self.time <= Duration::from_secs(120), "everything in 120 s"),
            (self.writes_each() <= 2.0, "2 writes for each object"),
            (self.restart_writes.total() == 0, "no writes after a restart and in quiet"),
            (memory <= 120, "120 MiB in quiet"),
            (peak <= 200, "200 MiB at most"),
            (self.edit <= Duration::from_secs(5), "an edit in 5 s"),
            (self.growth <= 1.3, "1.3 times the time for one among few"),
        ];
        goals.into_iter().filter(|(is_met, _)| !is_met).map(|(_, goal)| goal).collect()
    }

    /// Writes by the objects written: the children and the status of each consumer.
    fn writes_each(&self) -> f64 {
        float(self.writes.total()) / float(self.objects as u64 * OBJECTS_EACH)
    }
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// Makes `count` consumers, and has `program` reconcile them, which must write nothing for as long as `quiet` afterwards.
pub async fn run(program: &Path, rules: &[PolicyRule], count: usize, quiet: Duration) -> Outcome {
    let server = ApiServer::start_for_many().await;
    server.grant("operator", None, rules).await;
    for namespace in namespaces() {
        server.make_namespace(&namespace).await;
    }
    let trial = Trial { client: server.client(), kubeconfig: server.kubeconfig("operator"), server, program };
    // The first ones warm up the API server, which then knows the kinds.
    trial.flood(0..FEW / 4).await;
    let few = trial.flood(FEW / 4..FEW / 4 + FEW).await;
    eprintln!("scale: {FEW} in {:.1} s", few.time.as_secs_f64());
    let start = FEW / 4 + FEW;
    let flood = trial.flood(start..start + count).await;
    eprintln!("scale: {count} in {:.1} s, writes {:?}", flood.time.as_secs_f64(), flood.writes.0);
    let [apis, etcd, operator, here] = flood.used.map(|used| used.as_secs_f64());
    eprintln!(
        "scale: processor seconds: kube-apiserver {apis:.1}, etcd {etcd:.1}, operator {operator:.1}, trial {here:.1}"
    );
    let quiet = trial.restart_and_quiet(start + count, quiet).await;
    let each = |time: Duration, count: usize| time.as_secs_f64() / float(count as u64);
    Outcome {
        objects: count,
        growth: each(flood.working, count) / each(few.working, FEW),
        time: flood.time,
        writes: flood.writes,
        edit: flood.edit,
        memory: Memory { peak: quiet.memory.peak.max(flood.memory.peak), ..quiet.memory },
        restart_writes: quiet.writes,
        idle_millicores: quiet.idle_millicores,
    }
}

struct Trial<'a> {
    server: ApiServer,
    client: Client,
    kubeconfig: PathBuf,
    program: &'a Path,
}

/// What came of one flood.
struct Flood {
    /// From the start of the operator.
    time: Duration,
    /// From the first Deployment.
    working: Duration,
    writes: Writes,
    edit: Duration,
    memory: Memory,
    /// Processor time of the API server, etcd, the operator and this trial.
    used: [Duration; 4],
}

struct Quiet {
    writes: Writes,
    memory: Memory,
    idle_millicores: u64,
}

impl Trial<'_> {
    /// Processor time that the API server, etcd and this trial have used so far.
    fn processor_time(&self) -> [Duration; 3] {
        let [server, etcd] = self.server.processor_time();
        [server, etcd, processor_time(process::id())]
    }

    /// Makes consumers, starts an operator that finds them all, edits one of those that it knew while it is at work, and stops
    /// it when each has its Deployment and its status.
    async fn flood(&self, numbers: std::ops::Range<usize>) -> Flood {
        let (known, all) = (numbers.start, numbers.end);
        make(&self.client, numbers).await;
        let before = Writes::so_far(&self.server).await;
        let (start, used) = (Instant::now(), self.processor_time());
        let operator = OperatorProcess::start(self.program, &self.kubeconfig).await;
        let first = self.when_deployments(known + 1).await;
        let edit = self.longest_edit(known, all).await;
        let last = self.when_deployments(all).await;
        // What a list shows was there when it began.
        let told_all = || async {
            let begun = Instant::now();
            (told(&self.client).await == all).then_some(begun)
        };
        let time = wait_for("every status", LIMIT, told_all).await.duration_since(start);
        let now = self.processor_time();
        let [server, etcd, trial] = array::from_fn(|part| now[part].saturating_sub(used[part]));
        let used = [server, etcd, operator.processor_time(), trial];
        let memory = operator.memory();
        operator.stop().await;
        let mut writes = Writes::so_far(&self.server).await.since(&before);
        // These were ours.
        writes.0.retain(|name, _| name != "PATCH eventconsumers");
        Flood { time, working: last.duration_since(first), writes, edit, memory, used }
    }

    async fn when_deployments(&self, count: usize) -> Instant {
        let start = Instant::now();
        while deployments(&self.client).await < count {
            assert!(start.elapsed() < LIMIT, "there are not {count} Deployments in time");
            tokio::time::sleep((start.elapsed() / COUNT_SHARE).clamp(COUNT_PAUSE, COUNT_PAUSE_MAX)).await;
        }
        Instant::now()
    }

    /// Starts an operator that finds everything done, lets it look at all of it, and watches it in quiet.
    async fn restart_and_quiet(&self, all: usize, quiet: Duration) -> Quiet {
        let before = Writes::so_far(&self.server).await;
        let operator = OperatorProcess::start(self.program, &self.kubeconfig).await;
        let looks = || async { (operator.count("millrace_operator_reconcile_total") >= all as u64).then_some(()) };
        wait_for("everything is looked at", LIMIT, looks).await;
        let busy = operator.processor_time();
        tokio::time::sleep(quiet).await;
        let used = operator.processor_time().saturating_sub(busy);
        let memory = operator.memory();
        let log = operator.log();
        operator.stop().await;
        let writes = Writes::so_far(&self.server).await.since(&before);
        eprintln!("scale: after a restart: writes {:?}, log {log:?}", writes.0);
        let idle_millicores = u64::try_from(used.as_millis()).unwrap() / quiet.as_secs();
        Quiet { writes, memory, idle_millicores }
    }

    /// Edits consumers that are done while `all` are not, and says how long the slowest took until its status spoke of it.
    async fn longest_edit(&self, known: usize, all: usize) -> Duration {
        let mut longest = Duration::ZERO;
        for number in 0..EDITS.min(known) {
            if deployments(&self.client).await + EDITS >= all {
                break;
            }
            let start = Instant::now();
            // Each flood has another number, so that it is a change.
            edit(&self.client, number, u32::try_from(all % 4_000 + 1).unwrap()).await;
            wait_for("an edit is seen to", LIMIT, || async { is_told(&self.client, number).await.then_some(()) }).await;
            longest = longest.max(start.elapsed());
        }
        longest
    }
}
