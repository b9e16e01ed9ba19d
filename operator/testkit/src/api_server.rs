//! A real kube-apiserver on a real etcd, for one test. No nodes, no scheduler, no controllers: Deployments are stored and
//! nothing comes of them, so every write that a test sees is the operator's or its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Request;
use k8s_openapi::{
    api::{
        core::v1::Namespace,
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, CustomResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    config::AuthInfo,
};
use millrace_operator_api::EventConsumer;
use millrace_testkit::nats_server::{free_port, tool};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The time in which both programs must answer. They take four seconds on two idle cores.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The one who may do everything, by a token of the token file.
const ADMIN_TOKEN: &str = "admin-token";

/// The operator, who may do what the generated role says once it is granted.
const OPERATOR_TOKEN: &str = "operator-token";

/// The name of the operator's user.
const OPERATOR: &str = "millrace-operator";

/// A real API server with the definition of `EventConsumer`. It ends with this value.
pub struct ApiServer {
    data: TempDir,
    port: u16,
    etcd: Process,
    etcd_port: u16,
    server: Option<Process>,
}

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl ApiServer {
    /// Starts both programs, waits until they answer, and installs the definition.
    pub async fn start() -> Self {
        let data = TempDir::new().unwrap();
        write_credentials(data.path());
        let (port, etcd_port) = (free_port(), free_port());
        let etcd = start_etcd(data.path(), etcd_port);
        let mut server = Self { data, port, etcd, etcd_port, server: None };
        server.restart().await;
        server.install().await;
        server
    }

    /// Kills the API server with SIGKILL. etcd goes on.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts the API server on its port and data, killing what is left of it, and waits until it answers.
    pub async fn restart(&mut self) {
        self.kill();
        self.server = Some(start_api_server(self.data.path(), self.port, self.etcd_port));
        let deadline = Instant::now() + START_LIMIT;
        while let Err(why) = self.check().await {
            let ended = self.server.as_mut().and_then(|server| server.0.try_wait().unwrap());
            assert!(ended.is_none(), "kube-apiserver ended: {}", self.log("kube-apiserver"));
            let ended = self.etcd.0.try_wait().unwrap();
            assert!(ended.is_none(), "etcd ended: {}", self.log("etcd"));
            assert!(Instant::now() < deadline, "kube-apiserver is not ready: {why}; {}", self.log("kube-apiserver"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A client of somebody who may do everything.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).unwrap()
    }

    /// How a client of somebody who may do everything reaches it.
    pub fn config(&self) -> Config {
        self.config_of(ADMIN_TOKEN)
    }

    /// How the operator reaches it.
    pub fn operator_config(&self) -> Config {
        self.config_of(OPERATOR_TOKEN)
    }

    fn config_of(&self, token: &str) -> Config {
        let mut config = Config::new(format!("https://127.0.0.1:{}", self.port).parse().unwrap());
        // It signs for itself; its authority stands behind its certificate in the same file.
        let pem = fs::read_to_string(self.data.path().join("certificates/apiserver.crt")).unwrap();
        config.root_cert = Some(certificates(&pem));
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        config
    }

    /// Makes a namespace.
    pub async fn make_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client());
        let namespace = serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    }

    /// A kubeconfig of the operator.
    pub fn operator_kubeconfig(&self) -> PathBuf {
        let (folder, path) = (self.data.path(), self.data.path().join("operator.kubeconfig"));
        let named = |name: &str, what: Value| json!([{"name": "default", name: what}]);
        let cluster = json!({
            "server": format!("https://127.0.0.1:{}", self.port),
            "certificate-authority": folder.join("certificates/apiserver.crt"),
        });
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "default",
            "clusters": named("cluster", cluster), "users": named("user", json!({"token": OPERATOR_TOKEN})),
            "contexts": named("context", json!({"cluster": "default", "user": "default"})),
        });
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Lets the operator do this, everywhere, and nothing else.
    pub async fn grant(&self, rules: &[PolicyRule]) {
        let apply = PatchParams::apply("test").force();
        let kind = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind});
        let mut role = kind("ClusterRole");
        role["metadata"] = json!({"name": OPERATOR});
        role["rules"] = json!(rules);
        Api::<ClusterRole>::all(self.client()).patch(OPERATOR, &apply, &Patch::Apply(&role)).await.unwrap();
        let mut binding = kind("ClusterRoleBinding");
        binding["metadata"] = json!({"name": OPERATOR});
        binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": OPERATOR});
        binding["subjects"] = json!([{"kind": "User", "name": OPERATOR, "apiGroup": "rbac.authorization.k8s.io"}]);
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client());
        bindings.patch(OPERATOR, &apply, &Patch::Apply(&binding)).await.unwrap();
    }

    /// What it counts, in the text format of Prometheus.
    pub async fn metrics(&self) -> String {
        self.client().request_text(Request::get("/metrics").body(Vec::new()).unwrap()).await.unwrap()
    }

    /// Stops the API server without a word: connections stay, and nothing answers.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.server.as_ref().expect("it runs").0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Ready means that what a start makes is made, as `/readyz` says. `Err` says why not.
    async fn check(&self) -> Result<(), String> {
        if !self.data.path().join("certificates/apiserver.crt").is_file() {
            return Err("it has no certificate yet".to_owned());
        }
        let client = Client::try_from(self.config()).map_err(|error| format!("no client: {error}"))?;
        let request = Request::get("/readyz").body(Vec::new()).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await;
        answer.map_err(|_| "no answer".to_owned())?.map(drop).map_err(|error| format!("{error:?}"))
    }

    async fn install(&self) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client());
        let definition = EventConsumer::crd();
        let name = definition.metadata.name.clone().unwrap();
        definitions.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&definition)).await.unwrap();
        let objects: Api<EventConsumer> = Api::all(self.client());
        crate::wait_for("the definition is served", START_LIMIT, || async {
            objects.list(&kube::api::ListParams::default().limit(1)).await.ok()
        })
        .await;
    }

    fn log(&self, name: &str) -> String {
        let log = fs::read_to_string(self.data.path().join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.join("\n")
    }
}

/// The certificates of a PEM file.
fn certificates(pem: &str) -> Vec<Vec<u8>> {
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    blocks.map(|block| STANDARD.decode(block.split("-----END").next().unwrap().replace('\n', "")).unwrap()).collect()
}

fn write_credentials(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    fs::write(folder.join("accounts.key"), key.serialize_pem()).unwrap();
    fs::write(folder.join("accounts.pub"), key.public_key_pem()).unwrap();
    let tokens = format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n{OPERATOR_TOKEN},{OPERATOR},{OPERATOR}\n");
    fs::write(folder.join("tokens.csv"), tokens).unwrap();
}

fn start_etcd(folder: &Path, port: u16) -> Process {
    let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
    let mut command = Command::new(tool("etcd", "ETCD"));
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("default={peers}")]);
    // Nothing of a test outlives the machine.
    command.arg("--unsafe-no-fsync");
    spawn(command, &folder.join("etcd.log"))
}

fn start_api_server(folder: &Path, port: u16, etcd_port: u16) -> Process {
    let mut command = Command::new(tool("kube-apiserver", "KUBE_APISERVER"));
    command.args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"]);
    command.args(["--secure-port", &port.to_string(), "--etcd-servers", &format!("http://127.0.0.1:{etcd_port}")]);
    command.arg("--cert-dir").arg(folder.join("certificates"));
    command.arg("--token-auth-file").arg(folder.join("tokens.csv"));
    command.arg("--service-account-key-file").arg(folder.join("accounts.pub"));
    command.arg("--service-account-signing-key-file").arg(folder.join("accounts.key"));
    command.args(["--service-account-issuer", "https://kubernetes.default.svc", "--authorization-mode", "RBAC"]);
    // Nobody makes the account `default` of a namespace here, and pods are made by hand.
    command.args(["--service-cluster-ip-range", "10.99.0.0/16", "--disable-admission-plugins", "ServiceAccount"]);
    command.args(["--endpoint-reconciler-type", "none"]);
    spawn(command, &folder.join("kube-apiserver.log"))
}

fn spawn(mut command: Command, log: &PathBuf) -> Process {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}
