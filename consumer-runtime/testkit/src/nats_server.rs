//! A real nats-server for one test.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, jetstream};
use millrace_events::Headers;
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

use crate::{
    signal::{self, Signal},
    wait::START,
};

/// A real nats-server on a loopback port with its own data. It ends with this value.
pub struct NatsServer {
    port: u16,
    data: TempDir,
    options: NatsServerOptions,
    process: Option<Child>,
}

/// What a test server is like.
#[derive(Clone, Debug, Default)]
pub struct NatsServerOptions {
    /// Whether it keeps streams.
    pub jetstream: bool,
    /// User and password that it asks for.
    pub user: Option<(&'static str, &'static str)>,
    /// Lines for its configuration file.
    pub config: String,
}

impl NatsServer {
    /// Starts a server with JetStream.
    pub async fn jetstream() -> Self {
        Self::start(NatsServerOptions { jetstream: true, ..NatsServerOptions::default() }).await
    }

    /// Starts a server and waits until it answers.
    pub async fn start(options: NatsServerOptions) -> Self {
        let data = TempDir::new().unwrap();
        // The server chooses the port and writes it down: one chosen here might be taken by the time it is used.
        let mut server = Self { port: 0, data, options, process: None };
        server.restart().await;
        server
    }

    /// From the next start on it has these lines in its configuration file.
    pub fn configure(&mut self, config: String) {
        self.options.config = config;
    }

    /// Lets the running server read these lines as its configuration file.
    pub fn reload(&mut self, config: String) {
        self.options.config = config;
        std::fs::write(self.data.path().join("server.conf"), &self.options.config).unwrap();
        assert!(signal::send(Signal::HUP, self.process.as_ref().unwrap().id()));
    }

    /// The URL to connect to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Makes the streams ORDERS (`orders.>`) and DLQ (`dlq.>`), and gives a way to look at them.
    pub async fn make_streams(&self) -> jetstream::Context {
        let context = jetstream::new(async_nats::connect(self.url()).await.unwrap());
        for (name, subject) in [("ORDERS", "orders.>"), ("DLQ", "dlq.>")] {
            let config = jetstream::stream::Config {
                name: name.to_owned(),
                subjects: vec![subject.to_owned()],
                ..jetstream::stream::Config::default()
            };
            context.create_stream(config).await.unwrap();
        }
        context
    }

    /// Kills the server with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts the server on its port and data, killing what is left of it, and waits until it answers.
    pub async fn restart(&mut self) {
        self.kill();
        let config = self.data.path().join("server.conf");
        std::fs::write(&config, &self.options.config).unwrap();
        let mut command = Command::new(binary());
        let port = if self.port == 0 { "-1".to_owned() } else { self.port.to_string() };
        command.arg("--ports_file_dir").arg(self.data.path());
        command.args(["--addr", "127.0.0.1", "--port", &port]).arg("--config").arg(&config);
        if self.options.jetstream {
            command.arg("--jetstream").arg("--store_dir").arg(self.data.path().join("store"));
        }
        if let Some((user, password)) = self.options.user {
            command.args(["--user", user, "--pass", password]);
        }
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.process = Some(process.expect("nats-server cannot be started"));
        self.wait_until_it_answers().await;
    }

    async fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + START;
        while self.port == 0 || TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            self.port = if self.port == 0 { self.chosen_port().unwrap_or_default() } else { self.port };
            assert!(Instant::now() < deadline, "nats-server does not answer on port {}", self.port);
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(ended.is_none(), "nats-server ended at once: {ended:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl NatsServer {
    /// The port that the server has written down.
    fn chosen_port(&self) -> Option<u16> {
        let pid = self.process.as_ref()?.id();
        let file = std::fs::read(self.data.path().join(format!("nats-server_{pid}.ports"))).ok()?;
        let ports: serde_json::Value = serde_json::from_slice(&file).ok()?;
        ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Headers as a publisher of the client library has them.
pub fn header_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        map.append(name, std::str::from_utf8(value).unwrap());
    }
    map
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn binary() -> PathBuf {
    tool("nats-server", "NATS_SERVER")
}

/// The tool that `variable` names, else the one that `deploy/tools/get` has installed, else the one on the `PATH`.
pub fn tool(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return path.into();
    }
    let cache = env::var_os("MILLRACE_CACHE")
        .map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/millrace"), PathBuf::from);
    let cached = cache.join("bin").join(name);
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::iter::once(cached).chain(env::split_paths(&folders).map(|folder| folder.join(name)));
    candidates.find(|path| path.is_file()).unwrap_or_else(|| panic!("{name} not found: run deploy/tools/get {name}"))
}
