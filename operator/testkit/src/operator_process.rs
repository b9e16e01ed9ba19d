//! An operator in a process of its own, as it is in its image.

use std::{
    fs::{self, File},
    io::Read as _,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use millrace_testkit::{
    nats_server::free_port,
    signal::{self, Signal},
    usage::{Memory, memory, processor_time},
};
use tempfile::TempDir;

use crate::wait_for;

/// The time in which it must answer, and in which it must end.
const LIMIT: Duration = Duration::from_secs(30);

/// An operator in a process of its own. It ends with this value.
pub struct OperatorProcess {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl OperatorProcess {
    /// Starts `program` with the command `run` on the cluster of `kubeconfig`, and waits until it answers.
    pub async fn start(program: &Path, kubeconfig: &Path) -> Self {
        Self::start_with(program, kubeconfig, &[]).await
    }

    /// The same with more environment.
    pub async fn start_with(program: &Path, kubeconfig: &Path, environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .arg("run")
            .env("KUBECONFIG", kubeconfig)
            .env("LISTEN", address.to_string())
            .env("LOG_LEVEL", "warn")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let operator = Self { child, address, folder };
        wait_for("the operator answers", LIMIT, || async { operator.get("/livez").map(drop) }).await;
        operator
    }

    /// Memory that it takes.
    pub fn memory(&self) -> Memory {
        memory(self.child.id())
    }

    /// Processor time that it has used.
    pub fn processor_time(&self) -> Duration {
        processor_time(self.child.id())
    }

    /// The sum of a counter of its metrics, over all labels.
    pub fn count(&self, counter: &str) -> u64 {
        let Some(text) = self.get("/metrics") else { return 0 };
        let values =
            text.lines().filter(|line| line.starts_with(counter)).filter_map(|line| line.split(' ').next_back());
        values.filter_map(|value| value.parse::<u64>().ok()).sum()
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        assert!(signal::send(signal, self.child.id()));
    }

    /// How it ends, which must be within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        self.ended(LIMIT).await;
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn get(&self, path: &str) -> Option<String> {
        use std::io::Write as _;
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: operator\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }
}

impl Drop for OperatorProcess {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
