//! The benchmark measures what is right: every loop and the runtime handle each event once. Its figures need a release build.
#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::process::Command;

/// Runs parts of the benchmark with few messages, and gives its last line.
fn run(parts: &str) -> String {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = bench.args(["smoke", "--runtime", "unused", "--less", "100", "--only", parts]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn on_jetstream_each_event_is_handled_once_with_every_store() {
    let line = run("jetstream,sleep,stores");
    assert!(line.starts_with("bench: J1=0") || line.starts_with("bench: J1=1"), "{line}");
    assert!(line.contains(" K1=- "), "{line}");
}

#[test]
fn on_kafka_each_event_is_handled_once() {
    let line = run("kafka");
    assert!(line.starts_with("bench: J1=- ") && !line.contains(" K1=- "), "{line}");
}
