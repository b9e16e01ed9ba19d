//! A runtime as a process, and what is around it.

use std::{
    fs,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use async_nats::jetstream;
use millrace_testkit::{nats_server::NatsServer, runtime, sample};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_consumer-runtime");

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime as a process. It ends with this value.
pub(crate) struct Runtime {
    running: runtime::Runtime,
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
        let text = format!(
            "consumer: {{namespace: shop, name: {name}}}
broker: {{jetStream: {{servers: ['{}'], stream: ORDERS, ackWaitSeconds: {ack_wait_seconds}}}}}
subjects: ['orders.>']
handler: {handler}
{more}
",
            server.url()
        );
        Self::of(&text, secrets, data)
    }

    /// A runtime with this configuration.
    pub(crate) fn of(config: &str, secrets: &Path, data: &Path) -> Self {
        let running = runtime::Runtime::start(Path::new(PROGRAM), config, runtime::Folders { secrets, data });
        Self { running, secrets: secrets.to_owned() }
    }

    /// `consumer-runtime redrive` with this runtime's configuration.
    pub(crate) fn redrive(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["redrive"]);
        command.args(arguments);
        command
    }

    /// Another command of the program with this runtime's configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.config()).arg("--secrets-dir").arg(&self.secrets);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    pub(crate) fn orders(&self) -> u64 {
        self.status().map_or(0, |status| status["analytics"]["orders"].as_u64().unwrap())
    }

    /// The reason why the handler does not work.
    pub(crate) fn handler_problem(&self) -> Option<String> {
        self.problem("Handler")
    }
}

impl Deref for Runtime {
    type Target = runtime::Runtime;

    fn deref(&self) -> &runtime::Runtime {
        &self.running
    }
}

impl DerefMut for Runtime {
    fn deref_mut(&mut self) -> &mut runtime::Runtime {
        &mut self.running
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
