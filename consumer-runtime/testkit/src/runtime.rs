//! A consumer-runtime as a process of this machine, and what it says about itself.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    nats_server::free_port,
    signal::{self, Signal},
    usage::{Memory, memory, processor_time},
};

/// The time for one answer. A process that is stopped takes connections and says nothing.
const ANSWER: Duration = Duration::from_secs(5);

/// A consumer-runtime as a process. It ends with this value.
pub struct Runtime {
    /// The process.
    pub process: Child,
    port: u16,
    folder: TempDir,
}

/// What a runtime is started with beside its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Folders<'a> {
    /// Its Secrets.
    pub secrets: &'a Path,
    /// What outlives it.
    pub data: &'a Path,
}

impl Runtime {
    /// Starts `program` with this configuration. It may call loopback addresses by `http`, and its log is kept.
    pub fn start(program: &Path, config: &str, folders: Folders<'_>) -> Self {
        let (folder, port) = (TempDir::new().unwrap(), free_port());
        fs::write(folder.path().join("config.yaml"), config).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let process = Command::new(program)
            .arg("--config")
            .arg(folder.path().join("config.yaml"))
            .arg("--secrets-dir")
            .arg(folders.secrets)
            .arg("--data-dir")
            .arg(folders.data)
            .args(["--listen", &format!("127.0.0.1:{port}"), "--http-allow", "127.0.0.0/8,::1/128"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()));
        Self { process, port, folder }
    }

    /// The file of its configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("log")).unwrap()).into_owned()
    }

    /// The status code and body of an answer; nothing while it does not answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.port, path)
    }

    /// Its report.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/status")?.1).ok()
    }

    /// Whether it takes events.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(code, _)| code == 200)
    }

    /// One of the totals of its report, 0 while it does not answer.
    pub fn total(&self, name: &str) -> u64 {
        self.status().map_or(0, |status| status["totals"][name].as_u64().unwrap())
    }

    /// Deliveries that it holds.
    pub fn in_flight(&self) -> u64 {
        self.status().map_or(0, |status| status["lag"]["inFlight"].as_u64().unwrap())
    }

    /// A figure of its metrics, by name and labels as they stand there.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, metrics) = self.get("/metrics")?;
        metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// The reason why a part of it (`Broker`, `Store`, `Handler`, `Circuit`) does not work.
    pub fn problem(&self, part: &str) -> Option<String> {
        let status = self.status()?;
        let problem = status["problems"].as_array()?.iter().find(|problem| problem["part"] == part)?;
        problem["reason"].as_str().map(str::to_owned)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(signal::send(signal, self.process.id()), "it has ended already; its log: {}", self.log());
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// Memory that it takes.
    pub fn memory(&self) -> Memory {
        memory(self.process.id())
    }

    /// Processor time that it has used so far.
    pub fn processor_time(&self) -> Duration {
        processor_time(self.process.id())
    }
}

/// The status code and body of the answer of whoever listens on `port`; nothing while nobody does.
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
