//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use millrace_config::{AddressRanges, RuntimeConfig};

use crate::redrive::RedriveArgs;

/// The shared runtime of all EventConsumers. Without a command it consumes.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// The configuration file, as the operator renders it.
    #[arg(long, global = true, env = "MILLRACE_CONFIG", default_value = "/etc/millrace/config.yaml")]
    config: PathBuf,

    /// Where Secrets are mounted: a folder for each use (`broker`, `store`, `smtp`, `http-headers`), with a file for each key.
    #[arg(long, global = true, env = "MILLRACE_SECRETS_DIR", default_value = "/etc/millrace/secrets")]
    secrets_dir: PathBuf,

    /// Where the embedded store keeps its file: a persistent volume.
    #[arg(long, global = true, env = "MILLRACE_DATA_DIR", default_value = "/var/lib/millrace")]
    data_dir: PathBuf,

    /// Where /livez, /readyz, /metrics and /status are served.
    #[arg(long, global = true, env = "MILLRACE_LISTEN", default_value = "0.0.0.0:8080")]
    pub(crate) listen: SocketAddr,

    /// Ranges of addresses that the `http` handler may call though they are not public, for example
    /// `10.20.0.0/16,127.0.0.0/8`.
    #[arg(long, global = true, env = "MILLRACE_HTTP_ALLOW", default_value = "")]
    pub(crate) http_allow: AddressRanges,

    /// How many of the traces that begin here are recorded: 0 none, 1 all. An event whose publisher has decided keeps that
    /// decision. Traces are kept where `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector.
    #[arg(long, global = true, env = "OTEL_TRACES_SAMPLER_ARG", default_value_t = 1.0, value_parser = ratio)]
    pub(crate) trace_ratio: f64,

    /// Form of the log lines.
    #[arg(long, global = true, env = "MILLRACE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub(crate) log_format: LogFormat,

    /// Which log lines are written: a level, or a tracing filter such as `info,millrace_nats=debug`.
    #[arg(long, global = true, env = "MILLRACE_LOG", default_value = "info")]
    pub(crate) log_level: String,
}

/// What else it can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Redrive(RedriveArgs),
    /// Deletes the JetStream durable of this consumer. For one that is no more: a consumer that runs makes it again.
    DeleteDurable {
        /// Seconds in which it must have worked.
        #[arg(long, default_value_t = 30)]
        within_seconds: u64,
    },
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The folders that are mounted into the process.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    /// One folder for each Secret.
    pub(crate) secrets: PathBuf,
    /// What outlives the process.
    pub(crate) data: PathBuf,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "use a number from 0 to 1".to_owned())
}

impl Args {
    pub(crate) fn folders(&self) -> Folders {
        Folders { secrets: self.secrets_dir.clone(), data: self.data_dir.clone() }
    }

    /// Reads the configuration file.
    pub(crate) fn config(&self) -> Result<RuntimeConfig, String> {
        let path = self.config.display();
        let text = std::fs::read_to_string(&self.config).map_err(|error| format!("failed to read {path}: {error}"))?;
        millrace_config::load(&text).map_err(|error| format!("{path}: {error}"))
    }
}
