//! A real PostgreSQL for one test.

use std::{
    env, fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

use crate::{
    nats_server::free_port,
    signal::{self, Signal},
    wait::START,
};

/// The superuser of a server.
pub const USER: &str = "millrace";
/// Its password.
pub const PASSWORD: &str = "hunter2";

/// A certificate and its key, for a server that speaks TLS; both PEM.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authority that signs certificates of clients; with it every client must show one.
    pub client_authority: Option<String>,
}

/// A server on loopback, with a data folder of its own and `fsync` on. It ends with this value.
pub struct PostgresServer {
    port: u16,
    data: TempDir,
    settings: Vec<String>,
    process: Option<Child>,
}

impl PostgresServer {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(None, &[]).await
    }

    /// Starts a server with TLS, or with `settings` of the form `name=value`.
    pub async fn start_with(tls: Option<&ServerTls>, settings: &[&str]) -> Self {
        let data = TempDir::new().unwrap();
        own(data.path());
        let mut server = Self {
            port: free_port(),
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            process: None,
            data,
        };
        server.initialise(tls);
        server.restart().await;
        server
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its database, without TLS.
    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// Kills the server with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let children = Self::backends_of(process.id());
            process.kill().unwrap();
            process.wait().unwrap();
            // They notice by themselves; until then the next start is refused.
            for child in children {
                signal::send(Signal::KILL, child);
            }
        }
    }

    /// Stops every process of the server where it is, as a machine that hangs would.
    pub fn pause(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Starts the server on its port and data, killing what is left of it, and waits until it answers.
    pub async fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + START;
        while !self.try_to_start(deadline).await {
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", self.log());
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Starts the server. False when it ended at once, which it does while something of an earlier one is left.
    async fn try_to_start(&mut self, deadline: Instant) -> bool {
        let mut command = program("postgres");
        command.arg("-D").arg(self.folder()).args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        for setting in ["fsync=on", "shared_buffers=16MB", "max_connections=60", "log_min_messages=warning"] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.data.path().join("log")).unwrap();
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("postgres cannot be started");
        while !self.answers().await {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "PostgreSQL does not answer: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
        self.process = Some(process);
        true
    }

    fn initialise(&self, tls: Option<&ServerTls>) {
        let password = self.data.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        own(&password);
        let output = program("initdb")
            .args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username", USER])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(self.folder())
            .output()
            .expect("initdb cannot be started");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        if let Some(tls) = tls {
            self.configure_tls(tls);
        }
    }

    fn configure_tls(&self, tls: &ServerTls) {
        let write = |name: &str, text: &str| {
            let path = self.folder().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            own(&path);
        };
        write("server.crt", &tls.certificate);
        write("server.key", &tls.key);
        let mut config = "ssl = on\n".to_owned();
        let mut clients = "hostssl all all 127.0.0.1/32 scram-sha-256".to_owned();
        if let Some(authority) = &tls.client_authority {
            write("root.crt", authority);
            config.push_str("ssl_ca_file = 'root.crt'\n");
            clients.push_str(" clientcert=verify-ca");
        }
        write("postgresql.auto.conf", &config);
        clients.push('\n');
        write("pg_hba.conf", &clients);
    }

    fn folder(&self) -> PathBuf {
        self.data.path().join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("log")).unwrap_or_default()
    }

    /// Whether it takes connections: its first answer to a packet that asks for TLS is one letter.
    async fn answers(&self) -> bool {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let mut letter = [0];
        let asked = stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.is_ok();
        asked && stream.read_exact(&mut letter).await.is_ok() && self.is_repaired()
    }

    /// Whether it has said that it is up. Before that it takes connections only to refuse them.
    fn is_repaired(&self) -> bool {
        let file = fs::read_to_string(self.folder().join("postmaster.pid")).unwrap_or_default();
        file.lines().nth(7).is_some_and(|line| line.trim() == "ready")
    }

    fn signal_all(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        for pid in Self::backends_of(process.id()).into_iter().chain([process.id()]) {
            // One that has ended meanwhile is none to signal.
            signal::send(signal, pid);
        }
    }

    fn backends_of(parent: u32) -> Vec<u32> {
        let is_child = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned()).unwrap_or_default();
            fields.split(' ').nth(1) == Some(&parent.to_string())
        };
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_child).collect()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of PostgreSQL, run by a user that it accepts: it refuses root.
fn program(name: &str) -> Command {
    let mut command = Command::new(folder().join(name));
    // Its folder may be closed to that user.
    command.current_dir("/");
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command
}

/// Gives a path to that user.
fn own(path: &Path) {
    if let Some((user, group)) = user() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

/// The user `postgres`, which the package makes, where this process is root's; else this process's own is right.
fn user() -> Option<(u32, u32)> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let is_root = status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let entry = users.lines().find(|line| line.starts_with("postgres:"));
    is_root.then(|| {
        let fields: Vec<&str> =
            entry.expect("there is no user postgres: run deploy/tools/get postgresql").split(':').collect();
        (fields[2].parse().unwrap(), fields[3].parse().unwrap())
    })
}

/// Where the programs are: `POSTGRES_BIN`, else where Debian puts them.
fn folder() -> PathBuf {
    let folder = env::var_os("POSTGRES_BIN").map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from);
    assert!(folder.join("postgres").is_file(), "PostgreSQL 15 not found: run deploy/tools/get postgresql");
    folder
}
