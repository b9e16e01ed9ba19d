//! A real Redis server for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use crate::{
    nats_server::{free_port, tool},
    signal::{self, Signal},
    wait::START,
};

/// A server that writes down what it is told before it answers, as a store of claims is to be.
pub const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// A real Redis server on a loopback port with its own data. It ends with this value.
pub struct RedisServer {
    port: u16,
    data: TempDir,
    options: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server with these options and waits until it answers. `{port}` stands for its port.
    pub async fn start(options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { port: 0, data: TempDir::new().unwrap(), options, process: None };
        // A port that was free may be taken by the time it is used.
        for _ in 0..5 {
            server.port = free_port();
            server.spawn();
            if server.answers().await {
                return server;
            }
        }
        panic!("redis-server does not start; its log: {}", server.log())
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL to connect to.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// From the next start on it has these options.
    pub fn configure(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
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
        self.spawn();
        assert!(self.answers().await, "redis-server does not start again; its log: {}", self.log());
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(signal::send(signal, self.process.as_ref().unwrap().id()));
    }

    /// Sends a command, without credentials, and gives as much of an answer as comes.
    pub async fn command(&self, words: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let mut answer = Vec::new();
        // A server that speaks TLS hangs up.
        if stream.write_all(format!("{words}\r\nQUIT\r\n").as_bytes()).await.is_ok() {
            drop(stream.read_to_end(&mut answer).await);
        }
        String::from_utf8(answer).unwrap()
    }

    fn spawn(&mut self) {
        let log = fs::File::create(self.data.path().join("log")).unwrap();
        let mut command = Command::new(binary());
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""]);
        command.arg("--dir").arg(self.data.path());
        command.args(self.options.iter().map(|option| option.replace("{port}", &self.port.to_string())));
        let process = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn();
        self.process = Some(process.expect("redis-server cannot be started"));
    }

    /// Waits until it answers; says no when it has ended.
    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + START;
        loop {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            // While it reads its data it answers to nothing but this, and says so.
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
                && !self.command("PING").await.contains("LOADING")
            {
                return true;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer on port {}", self.port);
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes a Secret as it is mounted: a file for each key.
pub fn write_secret(folder: &Path, keys: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    for (key, value) in keys {
        fs::write(folder.join(key), value).unwrap();
    }
}

fn binary() -> PathBuf {
    tool("redis-server", "REDIS_SERVER")
}
