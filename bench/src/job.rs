//! One run: what a child process is told and what it answers.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use millrace_engine::tasks;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use crate::{loops, orders::Orders, runtime};

/// One run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Job {
    /// What consumes.
    pub(crate) what: What,
    /// Where the broker is.
    pub(crate) broker: Broker,
    /// The stream or topic.
    pub(crate) source: String,
    /// Durable or group: a new one for each run.
    pub(crate) group: String,
    /// What the stream or topic holds.
    pub(crate) orders: Orders,
    /// How long the handler sleeps.
    pub(crate) sleep_ms: u64,
}

/// A broker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Broker {
    /// NATS with JetStream: its URL.
    JetStream(String),
    /// Kafka: its address, and the partitions of the topic.
    Kafka(String, i32),
}

/// What consumes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum What {
    /// The client library's loop: takes and acks.
    Raw,
    /// A hand-written loop: takes, parses, skips duplicates, acks.
    HandWritten,
    /// The runtime.
    Runtime(Settings),
}

/// What the configuration of the runtime says beside the broker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Settings {
    /// `idempotency.store`, in YAML.
    pub(crate) store: String,
    /// Further lines.
    pub(crate) more: String,
    /// Name of the consumer: claims are its own.
    pub(crate) consumer: String,
    /// Where Secrets and data are.
    pub(crate) folder: PathBuf,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Run {
    /// From the first message until the broker has nothing left that is not settled.
    pub(crate) seconds: f64,
    /// CPU time of the process in that time.
    pub(crate) cpu_seconds: f64,
    /// Messages in that time.
    pub(crate) messages: u64,
    /// Events that were not handled, or messages that did not come where nothing looks into them.
    pub(crate) missing: u64,
    /// Events that were handled more than once.
    pub(crate) doubled: u64,
}

impl Run {
    pub(crate) fn per_second(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    pub(crate) fn cpu_microseconds(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.messages as f64
    }
}

impl Job {
    /// Runs it in a process of its own.
    pub(crate) fn start(&self) -> Run {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("run").arg(serde_json::to_string(self).unwrap());
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "the run failed: {self:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs it in this process, in one of the async runtime's own threads.
    pub(crate) fn run(self) -> Run {
        let tokio = consumer_runtime::async_runtime().unwrap();
        tokio.block_on(async { tasks::spawn("run", self.consume()).await }).unwrap()
    }

    async fn consume(self) -> Run {
        match (&self.what, &self.broker) {
            (What::Runtime(settings), _) => Box::pin(runtime::run(&self, settings)).await,
            (What::Raw, Broker::JetStream(url)) => Box::pin(loops::jetstream::raw(&self, url)).await,
            (What::HandWritten, Broker::JetStream(url)) => Box::pin(loops::jetstream::hand_written(&self, url)).await,
            (What::Raw, Broker::Kafka(address, partitions)) => {
                block_in_place(|| loops::kafka::raw(&self, address, *partitions))
            }
            (What::HandWritten, Broker::Kafka(address, partitions)) => {
                block_in_place(|| loops::kafka::hand_written(&self, address, *partitions))
            }
        }
    }
}
