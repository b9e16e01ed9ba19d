//! A runtime as a process, and what is around it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream as StdTcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream;
use millrace_testkit::{
    nats_server::{NatsServer, free_port},
    sample,
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime as a process. It ends with this value.
pub(crate) struct Runtime {
    pub(crate) process: Child,
    port: u16,
    folder: TempDir,
    secrets: PathBuf,
}

impl Runtime {
    /// A runtime with the `analytics` handler, whose sums show a repeated effect.
    pub(crate) fn start(server: &NatsServer, ack_wait_seconds: u32) -> Self {
        let delivery = "delivery: {deadLetter: {subject: dlq.analytics}}";
        Self::with(server, "analytics", ack_wait_seconds, "{analytics: {}}", delivery, Path::new("/nonexistent"))
    }

    /// A runtime with this handler, and `more` lines of configuration.
    pub(crate) fn with(
        server: &NatsServer,
        name: &str,
        ack_wait_seconds: u32,
        handler: &str,
        more: &str,
        secrets: &Path,
    ) -> Self {
        Self::with_data(server, name, ack_wait_seconds, handler, more, secrets, Path::new("/nonexistent"))
    }

    /// The same, with a folder that outlives it.
    pub(crate) fn with_data(
        server: &NatsServer,
        name: &str,
        ack_wait_seconds: u32,
        handler: &str,
        more: &str,
        secrets: &Path,
        data: &Path,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("config.yaml");
        let text = format!(
            "consumer: {{namespace: shop, name: {name}}}
broker: {{jetStream: {{servers: ['{}'], stream: ORDERS, ackWaitSeconds: {ack_wait_seconds}}}}}
subjects: ['orders.>']
handler: {handler}
{more}
",
            server.url()
        );
        fs::write(&config, text).unwrap();
        let port = free_port();
        let process = command(&config, secrets, port).arg("--data-dir").arg(data).spawn().unwrap();
        Self { process, port, folder, secrets: secrets.to_owned() }
    }

    /// `consumer-runtime redrive` with this runtime's configuration.
    pub(crate) fn redrive(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["redrive"]);
        command.args(arguments);
        command
    }

    /// Another command of the program with this runtime's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consumer-runtime"));
        command.arg("--config").arg(self.folder.path().join("config.yaml")).arg("--secrets-dir").arg(&self.secrets);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// A runtime that was spawned, with the folder of its configuration.
    pub(crate) fn of(process: Child, port: u16, folder: TempDir) -> Self {
        let secrets = folder.path().to_owned();
        Self { process, port, folder, secrets }
    }

    /// The status code and body of an answer.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = StdTcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub(crate) fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/status")?.1).ok()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(code, _)| code == 200)
    }

    pub(crate) fn total(&self, name: &str) -> u64 {
        self.status().map_or(0, |status| status["totals"][name].as_u64().unwrap())
    }

    pub(crate) fn orders(&self) -> u64 {
        self.status().map_or(0, |status| status["analytics"]["orders"].as_u64().unwrap())
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.status().map_or(0, |status| status["lag"]["inFlight"].as_u64().unwrap())
    }

    /// The reason why the handler does not work.
    pub(crate) fn handler_problem(&self) -> Option<String> {
        let status = self.status()?;
        let problem = status["problems"].as_array()?.iter().find(|problem| problem["part"] == "Handler")?;
        problem["reason"].as_str().map(str::to_owned)
    }

    pub(crate) fn signal(&self, signal: &str) {
        let killed = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A folder of Secrets with the Secret `smtp`.
pub(crate) struct Secret(TempDir);

impl Secret {
    pub(crate) fn empty() -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("smtp")).unwrap();
        Self(folder)
    }

    pub(crate) fn for_server(port: u16) -> Self {
        let secret = Self::empty();
        secret.describe(port);
        secret
    }

    /// From now on it describes a server on this port.
    pub(crate) fn describe(&self, port: u16) {
        // The host comes last: before it the Secret counts as missing.
        for (key, value) in [("tls", "none".to_owned()), ("port", port.to_string()), ("host", "127.0.0.1".to_owned())] {
            fs::write(self.0.path().join("smtp").join(key), value).unwrap();
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }
}

pub(crate) fn spawn(config: &Path, secrets: &Path, port: u16) -> Child {
    command(config, secrets, port).spawn().unwrap()
}

fn command(config: &Path, secrets: &Path, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consumer-runtime"));
    command.arg("--config").arg(config).arg("--secrets-dir").arg(secrets);
    command
        .args(["--listen", &format!("127.0.0.1:{port}"), "--http-allow", "127.0.0.0/8,::1/128"])
        .stderr(Stdio::null());
    command
}

pub(crate) async fn eventually(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    wait_until(what, patience, async || condition()).await;
}

pub(crate) async fn wait_until(what: &str, patience: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes orders with the ids of a range, each confirmed; tries again while the server is away.
pub(crate) async fn publish(context: &jetstream::Context, ids: std::ops::Range<u32>) {
    for id in ids {
        loop {
            let sent = context.publish("orders.placed", sample::order(&id.to_string())).await;
            if let Ok(ack) = sent
                && ack.await.is_ok()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Waits until the durable of the `analytics` consumer has nothing left.
pub(crate) async fn wait_until_settled(context: &jetstream::Context, patience: Duration) {
    settled_of(context, "shop-analytics", patience).await;
}

/// Waits until the durable has nothing left.
pub(crate) async fn settled_of(context: &jetstream::Context, durable: &str, patience: Duration) {
    let stream = context.get_stream("ORDERS").await.unwrap();
    let deadline = Instant::now() + patience;
    loop {
        let info = stream.consumer_info(durable).await.unwrap();
        if (info.num_pending, info.num_ack_pending) == (0, 0) {
            return;
        }
        assert!(Instant::now() < deadline, "{} pending, {} not acked", info.num_pending, info.num_ack_pending);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
