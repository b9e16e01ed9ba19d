//! The command line of the operator.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use kube::CustomResourceExt as _;
use millrace_operator_api::EventConsumer;
use operator::{build::Settings, controller, rbac, render, telemetry};

/// Reconciles EventConsumers.
#[derive(Debug, Parser)]
#[command(name = "operator", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator against the cluster of the current kubeconfig, or the one that it runs in.
    Run {
        /// Image of the consumer-runtime.
        #[arg(long, env = "RUNTIME_IMAGE")]
        runtime_image: String,
        /// The one namespace to watch; all when not given.
        #[arg(long, env = "WATCH_NAMESPACE")]
        watch_namespace: Option<String>,
        /// Where /livez, /readyz and /metrics are served.
        #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
    },
    /// Prints the CustomResourceDefinition.
    Crd,
    /// Prints the rules of the operator's ClusterRole.
    Rbac,
    /// Prints the objects that the operator would make for the EventConsumers in a file. Needs no cluster.
    Render {
        /// The file, with one or more YAML documents.
        file: PathBuf,
        /// Image of the consumer-runtime.
        #[arg(long, env = "RUNTIME_IMAGE", default_value = "millrace/consumer-runtime:dev")]
        runtime_image: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run { runtime_image, watch_namespace, listen } => {
            telemetry::init();
            controller::run(Settings { runtime_image }, watch_namespace.filter(|name| !name.is_empty()), listen).await
        }
        Command::Crd => print_yaml(&EventConsumer::crd()),
        Command::Rbac => print_yaml(&rbac::rules()),
        Command::Render { file, runtime_image } => {
            render::render(&file, &Settings { runtime_image }).map(|yaml| print!("{yaml}"))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_yaml(value: &impl serde::Serialize) -> Result<(), operator::error::Error> {
    print!("{}", serde_yaml::to_string(value)?);
    Ok(())
}
