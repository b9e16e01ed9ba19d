//! The same manifests as local processes: `operator render` gives the configurations, and each consumer is a process.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    machine::{Running, cache, free_port, get, get_text},
    wait_for,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A broker, a mail sink and consumers as processes of this machine. They end with this value.
pub struct Local {
    root: PathBuf,
    binaries: PathBuf,
    tools: PathBuf,
    folder: TempDir,
    nats_port: u16,
    mail_http_port: u16,
    processes: Vec<Running>,
}

/// A consumer that runs as processes.
pub struct LocalConsumer {
    ports: Vec<u16>,
}

impl Local {
    /// Starts a nats-server and a mailpit on loopback. `binaries` is the folder with operator, runtime and producer.
    pub fn start(binaries: PathBuf) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let (nats_port, mail_http_port, smtp_port) = (free_port(), free_port(), free_port());
        let tools = cache().join("bin");
        let mut local = Self { root, binaries, tools, folder, nats_port, mail_http_port, processes: Vec::new() };
        let data = local.folder.path().join("nats");
        let mut nats = Command::new(local.tools.join("nats-server"));
        nats.args(["--addr", "127.0.0.1", "--port", &nats_port.to_string(), "--jetstream", "--store_dir"]).arg(data);
        local.spawn(nats);
        let mut mailpit = Command::new(local.tools.join("mailpit"));
        mailpit.args(["--smtp", &format!("127.0.0.1:{smtp_port}"), "--listen", &format!("127.0.0.1:{mail_http_port}")]);
        mailpit.args(["--max", "0", "--disable-version-check"]);
        local.spawn(mailpit);
        let secret = local.folder.path().join("secrets/smtp");
        fs::create_dir_all(&secret).unwrap();
        for (key, value) in [("host", "127.0.0.1"), ("port", &smtp_port.to_string()), ("tls", "none")] {
            fs::write(secret.join(key), value).unwrap();
        }
        for port in [nats_port, mail_http_port, smtp_port] {
            wait_for("a server answers", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).ok());
        }
        local
    }

    fn spawn(&mut self, mut command: Command) {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        self.processes.push(Running(child));
    }

    /// Starts a consumer of `deploy/examples`: as many processes as it has replicas.
    pub fn apply_example(&mut self, example: &str) -> LocalConsumer {
        let manifest = self.root.join(format!("deploy/examples/{example}.yaml"));
        let text = fs::read_to_string(manifest).unwrap();
        let text = text.replace("nats.nats.svc:4222", &format!("127.0.0.1:{}", self.nats_port));
        let file = self.folder.path().join(format!("{example}.yaml"));
        fs::write(&file, text).unwrap();
        let rendered = Command::new(self.binaries.join("operator")).arg("render").arg(&file).output().unwrap();
        assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
        let documents = serde_yaml::Deserializer::from_slice(&rendered.stdout)
            .map(|document| serde::Deserialize::deserialize(document).unwrap())
            .collect::<Vec<Value>>();
        let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).unwrap();
        let config = self.folder.path().join(format!("{example}-config.yaml"));
        fs::write(&config, of_kind("ConfigMap")["data"]["config.yaml"].as_str().unwrap()).unwrap();
        let replicas = of_kind("Deployment")["spec"]["replicas"].as_u64().unwrap();
        let ports: Vec<u16> = (0..replicas).map(|_| free_port()).collect();
        for port in &ports {
            let mut runtime = Command::new(self.binaries.join("consumer-runtime"));
            runtime.arg("--config").arg(&config).arg("--secrets-dir").arg(self.folder.path().join("secrets"));
            runtime.args(["--listen", &format!("127.0.0.1:{port}")]);
            self.spawn(runtime);
        }
        LocalConsumer { ports }
    }

    /// Runs the producer to its end and gives its summary.
    pub fn produce(&self, arguments: &[&str]) -> Value {
        let mut producer = Command::new(self.binaries.join("producer"));
        producer.args([
            "--server",
            &format!("nats://127.0.0.1:{}", self.nats_port),
            "--create-streams",
            "--summary-json",
        ]);
        let output = producer.args(arguments).stderr(Stdio::inherit()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(text.lines().find(|line| line.starts_with('{')).expect("the producer failed")).unwrap()
    }

    /// How many e-mails the sink has got, and how many different ones.
    pub fn mails(&self) -> (u64, u64) {
        let page = get(self.mail_http_port, "/api/v1/messages?limit=100000").expect("the mail sink answers");
        let messages = page["messages"].as_array().unwrap();
        let mut ids: Vec<_> = messages.iter().map(|mail| mail["MessageID"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        (messages.len() as u64, ids.len() as u64)
    }
}

impl LocalConsumer {
    /// The reports of its processes that answer.
    pub fn reports(&self) -> Vec<Value> {
        self.ports.iter().filter_map(|port| get(*port, "/status")).collect()
    }

    /// One of the totals over all processes.
    pub fn total(&self, name: &str) -> u64 {
        self.reports().iter().map(|report| report["totals"][name].as_u64().unwrap()).sum()
    }

    /// Its dead letters by reason.
    pub fn dead_letters_by_reason(&self) -> BTreeMap<String, u64> {
        let metrics: String = self.ports.iter().filter_map(|port| get_text(*port, "/metrics")).collect();
        crate::dead_letters(&metrics)
    }

    /// Whether it works and has nothing left to do.
    pub fn is_idle(&self) -> bool {
        let reports = self.reports();
        let idle = |report: &Value| report["lag"]["pending"] == 0 && report["lag"]["inFlight"] == 0;
        reports.len() == self.ports.len() && reports.iter().all(idle)
    }
}
