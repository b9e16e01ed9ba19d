//! What a runtime costs: memory at rest, size of its image, and time from its start to its first ack on a broker that
//! knows its durable and its bucket.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be made says why"
)]

use std::{
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use millrace_e2e::machine::{Running, cache, free_port, get};

/// Rounds of which the median is printed.
const ROUNDS: usize = 5;

fn main() {
    let cache = cache();
    let release = PathBuf::from(env::args().nth(1).expect("the first argument is the folder of the release binaries"));
    let folder = tempfile::tempdir().unwrap();
    let (nats_port, http_port) = (free_port(), free_port());
    let nats = Command::new(cache.join("bin/nats-server"))
        .args(["--addr", "127.0.0.1", "--port", &nats_port.to_string(), "--jetstream", "--store_dir"])
        .arg(folder.path().join("nats"))
        .stderr(Stdio::null())
        .spawn();
    let _nats = Running(nats.unwrap());
    poll("nats-server answers", || TcpStream::connect(("127.0.0.1", nats_port)).ok());
    let config = folder.path().join("config.yaml");
    fs::write(&config, configuration(nats_port)).unwrap();
    let url = format!("nats://127.0.0.1:{nats_port}");
    let publish = || {
        let mut producer = Command::new(release.join("producer"));
        producer.args(["--server", &url, "--create-streams", "--count", "1"]).stdout(Stdio::null());
        assert!(producer.status().unwrap().success(), "the producer failed");
    };
    let mut start_to_ack = Vec::new();
    let mut rss = Vec::new();
    // The first round makes the durable and the bucket, and does not count.
    for round in 0..=ROUNDS {
        publish();
        let started = Instant::now();
        let runtime = start(&release, &config, http_port);
        poll("the event is acked", || {
            let status = get(http_port, "/status")?;
            (status["totals"]["deliveries"] == 1 && status["lag"]["inFlight"] == 0).then_some(())
        });
        if round > 0 {
            start_to_ack.push(started.elapsed().as_millis());
            std::thread::sleep(Duration::from_secs(2));
            rss.push(resident_kilobytes(runtime.0.id()));
        }
    }
    let image = fs::metadata(cache.join("images/consumer-runtime.tar")).map_or(0, |archive| archive.len());
    start_to_ack.sort_unstable();
    rss.sort_unstable();
    let tenths = |kilobytes: u64| format!("{}.{}", kilobytes / 1000, kilobytes % 1000 / 100);
    println!(
        "footprint: rss_idle_mb={} image_mb={} start_to_ack_ms={}",
        tenths(rss[ROUNDS / 2] * 1024 / 1000),
        tenths(image / 1000),
        start_to_ack[ROUNDS / 2]
    );
}

fn start(release: &Path, config: &Path, http_port: u16) -> Running {
    let runtime = Command::new(release.join("consumer-runtime"))
        .arg("--config")
        .arg(config)
        .args(["--listen", &format!("127.0.0.1:{http_port}")])
        .stderr(Stdio::null())
        .spawn();
    Running(runtime.unwrap())
}

fn configuration(nats_port: u16) -> String {
    format!(
        "consumer: {{namespace: footprint, name: log}}
broker: {{jetStream: {{servers: ['nats://127.0.0.1:{nats_port}'], stream: ORDERS}}}}
subjects: ['orders.>']
handler: {{log: {{}}}}
delivery: {{deadLetter: {{subject: dlq.log}}}}
"
    )
}

fn resident_kilobytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn poll<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}
