//! A real cluster, through kubectl and helm.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use serde_json::Value;

use crate::{audit::Audit, machine::cache};

/// A real cluster with the operator on it.
#[derive(Clone, Debug)]
pub struct Cluster {
    root: PathBuf,
    bin: PathBuf,
    kubeconfig: PathBuf,
    /// kind, local or existing.
    pub provider: String,
}

/// A forwarded port. It is forwarded until this is dropped.
#[derive(Debug)]
pub struct Forward {
    kubectl: Child,
    /// kubectl writes a line for each connection, and would end if nobody could read it.
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.kubectl.kill());
        drop(self.kubectl.wait());
    }
}

impl Cluster {
    /// Brings a cluster up, or uses the one that is up, loads the images and installs the operator by its chart.
    pub fn with_operator() -> Self {
        let cluster = Self::up();
        let images = cache().join("images");
        let archives = ["operator", "consumer-runtime", "consumer-runtime-kafka", "producer", "nats-server", "mailpit"]
            .map(|name| images.join(format!("{name}.tar")));
        cluster.load(&archives);
        cluster.install();
        cluster
    }

    /// Loads the image of the servers that some scenarios need beside NATS.
    pub fn load_servers(&self) {
        self.load(&[cache().join("images/servers.tar")]);
    }

    fn load(&self, archives: &[PathBuf]) {
        for archive in archives {
            assert!(archive.exists(), "{} does not exist: run `make images servers`", archive.display());
        }
        let load = self.run_script("deploy/cluster/load", archives.iter().map(|path| path.to_str().unwrap()));
        assert!(load.status.success(), "images cannot be loaded: {}", text(&load.stderr));
    }

    fn up() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
        let mut cluster = Self { bin: cache().join("bin"), root, kubeconfig: PathBuf::new(), provider: String::new() };
        let up = cluster.run_script("deploy/cluster/up", []);
        assert!(up.status.success(), "no cluster: {}", text(&up.stderr));
        cluster.kubeconfig = text(&cluster.run_script("deploy/cluster/kubeconfig", []).stdout).trim().into();
        text(&cluster.run_script("deploy/cluster/provider", []).stdout).trim().clone_into(&mut cluster.provider);
        cluster
    }

    /// Installs or upgrades the operator, and restarts it when its image may be another one under the same tag.
    pub fn install(&self) {
        self.install_with(&[]);
    }

    /// The same, with more arguments for helm.
    pub fn install_with(&self, arguments: &[&str]) {
        let chart = self.root.join("charts/millrace");
        let chart = chart.to_str().unwrap();
        let stamp = std::fs::read_to_string(cache().join("stamps/image-operator")).unwrap_or_default();
        let runtime = std::fs::read_to_string(cache().join("stamps/image-consumer-runtime")).unwrap_or_default();
        let annotations = format!("podAnnotations={}", serde_json::json!({"images": format!("{stamp}{runtime}")}));
        let release =
            ["upgrade", "--install", "millrace", chart, "--namespace", "millrace-system", "--create-namespace"];
        self.helm(&[&release[..], &["--set-json", &annotations, "--wait", "--timeout", "120s"], arguments].concat());
    }

    /// The API server's audit log from now on, where the cluster keeps one that can be read: the local one does.
    pub fn audit(&self) -> Option<Audit> {
        (self.provider == "local").then(|| Audit::from_now(cache().join("cluster/log/audit.log")))
    }

    /// Starts to forward a port of this machine, which it gives, to a port of a service. It ends with what is returned.
    pub fn forward(&self, namespace: &str, service: &str, port: u16) -> (Forward, u16) {
        let mut kubectl = self
            .kubectl_command()
            .args(["-n", namespace, "port-forward", &format!("service/{service}"), &format!(":{port}")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl cannot be started");
        let mut line = String::new();
        let mut stdout = BufReader::new(kubectl.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let forward = Forward { kubectl, _stdout: stdout };
        // "Forwarding from 127.0.0.1:40001 -> 4222"
        let port = line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        (forward, port.unwrap_or_else(|| panic!("kubectl port-forward says {line:?}")))
    }

    /// A path within this repository.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Runs a script of this repository.
    pub fn run_script<'a>(&self, script: &str, arguments: impl IntoIterator<Item = &'a str>) -> Output {
        Command::new(self.root.join(script)).args(arguments).output().unwrap()
    }

    /// Runs helm, which must succeed.
    pub fn helm(&self, arguments: &[&str]) -> String {
        let output =
            Command::new(self.bin.join("helm")).args(arguments).env("KUBECONFIG", &self.kubeconfig).output().unwrap();
        assert!(output.status.success(), "helm {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs kubectl, which must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments, "").unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// Runs kubectl with something to read; its error is what it says on stderr.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = self
            .kubectl_command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl cannot be started");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn kubectl_command(&self) -> Command {
        // The pinned one where it has been built.
        let pinned = self.bin.join("kubectl");
        let mut command = Command::new(if pinned.exists() { pinned } else { PathBuf::from("kubectl") });
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Applies YAML in a namespace.
    pub fn apply(&self, namespace: &str, yaml: &str) -> Result<String, String> {
        self.try_kubectl(&["-n", namespace, "apply", "--server-side", "--force-conflicts", "-f", "-"], yaml)
    }

    /// An object as JSON, if it exists.
    pub fn get(&self, namespace: &str, what: &[&str]) -> Option<Value> {
        let arguments = [&["-n", namespace, "get", "-o", "json"], what].concat();
        serde_json::from_str(&self.try_kubectl(&arguments, "").ok()?).ok()
    }

    /// What a service or pod answers over HTTP, by way of the API server. `target` is for example `services/nats:8222`.
    pub fn ask(&self, namespace: &str, target: &str, path: &str) -> Option<Value> {
        let raw = format!("/api/v1/namespaces/{namespace}/{target}/proxy{path}");
        serde_json::from_str(&self.try_kubectl(&["get", "--raw", &raw], "").ok()?).ok()
    }

    /// A condition of an `EventConsumer`: status, reason and message.
    pub fn condition(&self, namespace: &str, name: &str, kind: &str) -> Option<(String, String, String)> {
        let object = self.get(namespace, &["eventconsumer", name])?;
        if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
            return None;
        }
        let condition =
            object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?;
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason"), text("message")))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
