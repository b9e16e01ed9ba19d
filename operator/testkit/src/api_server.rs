//! A real kube-apiserver on a real etcd, for one test. No nodes, no scheduler, no controllers: Deployments are stored and
//! nothing comes of them, so every write that a test sees is the operator's or its own.

use std::{
    fmt::Debug,
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
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, CustomResourceExt as _, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    config::AuthInfo,
};
use millrace_operator_api::{DeadLetterReplay, EventConsumer};
use millrace_testkit::{
    nats_server::{free_port, tool},
    signal::{self, Signal},
    usage::processor_time,
};
use rcgen::KeyPair;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The time in which both programs must answer. They take four seconds on two idle cores.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The one who may do everything.
const ADMIN: &str = "admin";

/// Those who may do nothing until they are granted it. A token is the name and `-token`.
const USERS: [&str; 4] = ["operator", "first", "second", "third"];

/// By how many percent the memory of a server for many objects may grow before Go tidies it up. With what Go takes when not
/// told, 100, tidying up is a quarter of the processor time of a flood of writes.
const ROOM: &str = "400";

/// Who asked for what, and what was written to Leases.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  resources: [{group: coordination.k8s.io, resources: [leases]}]
  namespaces: [default]
  users: [operator, first, second, third]
- level: Metadata
  users: [operator, first, second, third]
- level: None
";

/// A real API server with our definitions. It ends with this value.
pub struct ApiServer {
    data: TempDir,
    kind: Kind,
    port: u16,
    etcd: Process,
    etcd_port: u16,
    server: Option<Process>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Plain,
    Audited,
    ForMany,
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
        Self::start_with(Kind::Plain, &EventConsumer::crd()).await
    }

    /// The same with an audit log, and as strict as a server can be about owner references.
    pub async fn start_audited() -> Self {
        Self::start_with(Kind::Audited, &EventConsumer::crd()).await
    }

    /// The same for thousands of objects: it takes more memory, and less time to tidy that up.
    pub async fn start_for_many() -> Self {
        Self::start_with(Kind::ForMany, &EventConsumer::crd()).await
    }

    /// The same with another definition.
    pub async fn start_with_definition(definition: &CustomResourceDefinition) -> Self {
        Self::start_with(Kind::Plain, definition).await
    }

    async fn start_with(kind: Kind, definition: &CustomResourceDefinition) -> Self {
        let data = TempDir::new().unwrap();
        write_credentials(data.path());
        let (port, etcd_port) = (free_port(), free_port());
        let etcd = start_etcd(data.path(), etcd_port);
        let mut server = Self { data, kind, port, etcd, etcd_port, server: None };
        server.restart().await;
        server.install(definition).await;
        server.install(&DeadLetterReplay::crd()).await;
        server
    }

    /// Kills the API server with SIGKILL. etcd goes on.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts the API server on its port and data, killing what is left of it, and waits until it answers.
    pub async fn restart(&mut self) {
        self.kill();
        self.server = Some(start_api_server(self.data.path(), self.port, self.etcd_port, self.kind));
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
        self.config_of(ADMIN)
    }

    /// How a client of one of the users reaches it.
    pub fn config_of(&self, user: &str) -> Config {
        let mut config = Config::new(format!("https://127.0.0.1:{}", self.port).parse().unwrap());
        // It signs for itself; its authority stands behind its certificate in the same file.
        config.root_cert = Some(certificates(&self.certificate()));
        config.auth_info = AuthInfo { token: Some(format!("{user}-token").into()), ..AuthInfo::default() };
        config
    }

    /// The same as a file, for a process.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        let authority = STANDARD.encode(self.certificate());
        let path = self.data.path().join(format!("{user}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "certificate-authority-data": authority,
            }}],
            "users": [{"name": user, "user": {"token": format!("{user}-token")}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": "default"}}],
        });
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Lets a user do this, in a namespace or everywhere, and there nothing else.
    pub async fn grant(&self, user: &str, namespace: Option<&str>, rights: &[PolicyRule]) {
        let name = format!("{user}-{}", namespace.unwrap_or("everywhere"));
        let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
        let metadata = json!({"name": name});
        let subject = json!({"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"});
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let binding = json!({"metadata": metadata, "subjects": [subject], "roleRef": role});
        let role = json!({"metadata": metadata, "rules": rights});
        let client = self.client();
        if let Some(namespace) = namespace {
            apply(&Api::<Role>::namespaced(client.clone(), namespace), role).await;
            apply(&Api::<RoleBinding>::namespaced(client, namespace), binding).await;
        } else {
            apply(&Api::<ClusterRole>::all(client.clone()), role).await;
            apply(&Api::<ClusterRoleBinding>::all(client), binding).await;
        }
    }

    /// What the users have asked for so far. A request is there before its answer.
    pub fn audit(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.data.path().join("audit.log")).unwrap();
        // The last line may be half written.
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Makes a namespace.
    pub async fn make_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    }

    /// What it counts, in the text format of Prometheus.
    pub async fn metrics(&self) -> String {
        self.client().request_text(Request::get("/metrics").body(Vec::new()).unwrap()).await.unwrap()
    }

    /// Processor time that the API server and etcd have used.
    pub fn processor_time(&self) -> [Duration; 2] {
        let server = self.server.as_ref().expect("it runs");
        [server.0.id(), self.etcd.0.id()].map(processor_time)
    }

    /// Stops the API server without a word: connections stay, and nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        assert!(signal::send(signal, self.server.as_ref().expect("it runs").0.id()));
    }

    fn certificate(&self) -> String {
        fs::read_to_string(self.data.path().join("certificates/apiserver.crt")).unwrap()
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

    /// Installs a definition, or replaces the one that is there, and waits until it is served.
    pub async fn install(&self, definition: &CustomResourceDefinition) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client());
        let name = definition.metadata.name.clone().unwrap();
        definitions.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(definition)).await.unwrap();
        let (names, version) = (&definition.spec.names, &definition.spec.versions[0].name);
        let resource = ApiResource {
            api_version: format!("{}/{version}", definition.spec.group),
            group: definition.spec.group.clone(),
            version: version.clone(),
            kind: names.kind.clone(),
            plural: names.plural.clone(),
        };
        let objects: Api<DynamicObject> = Api::all_with(self.client(), &resource);
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

/// Makes an object be as it is given, whatever was there.
async fn apply<K>(api: &Api<K>, mut object: Value)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    (object["apiVersion"], object["kind"]) = (json!(K::api_version(&())), json!(K::kind(&())));
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
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
    let admin = format!("{ADMIN}-token,{ADMIN},{ADMIN},\"system:masters\"");
    let users = USERS.iter().map(|user| format!("{user}-token,{user},{user}"));
    fs::write(folder.join("tokens.csv"), [admin].into_iter().chain(users).collect::<Vec<_>>().join("\n")).unwrap();
    fs::write(folder.join("audit.yaml"), AUDIT_POLICY).unwrap();
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

fn start_api_server(folder: &Path, port: u16, etcd_port: u16, kind: Kind) -> Process {
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
    if kind == Kind::ForMany {
        command.env("GOGC", ROOM);
    }
    if kind == Kind::Audited {
        command.arg("--audit-policy-file").arg(folder.join("audit.yaml"));
        command.arg("--audit-log-path").arg(folder.join("audit.log"));
        command.args(["--enable-admission-plugins", "OwnerReferencesPermissionEnforcement"]);
    }
    spawn(command, &folder.join("kube-apiserver.log"))
}

fn spawn(mut command: Command, log: &PathBuf) -> Process {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Process(command.spawn().unwrap())
}
