//! The command line of the operator.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use millrace_config::AddressRanges;
use millrace_operator_api::{DeadLetterReplay, EventConsumer};
use operator::{
    build::{RuntimeImages, Settings, TraceSettings},
    controller,
    lease::Election,
    rbac, reference, render, telemetry,
    wake::WakeSettings,
};

/// Reconciles EventConsumers.
#[derive(Debug, Parser)]
#[command(name = "operator", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

/// The kinds of custom resources.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    EventConsumer,
    DeadLetterReplay,
}

impl Kind {
    fn definition(self) -> CustomResourceDefinition {
        match self {
            Self::EventConsumer => EventConsumer::crd(),
            Self::DeadLetterReplay => DeadLetterReplay::crd(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator against the cluster of the current kubeconfig, or the one that it runs in.
    Run {
        #[command(flatten)]
        images: RuntimeImages,
        #[command(flatten)]
        traces: TraceSettings,
        #[command(flatten)]
        wake: WakeSettings,
        /// Ranges of addresses that `http` handlers may call though they are not public, for example `10.20.0.0/16`;
        /// several are separated by commas.
        #[arg(long, env = "HTTP_ALLOW", default_value = "")]
        http_allow: AddressRanges,
        /// The namespaces to watch, separated by commas; all when not given.
        #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
        watch_namespaces: Vec<String>,
        #[command(flatten)]
        election: Election,
        /// Where /livez, /readyz and /metrics are served.
        #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
    },
    /// Prints the definitions of the custom resources.
    Crd,
    /// Prints the rules of the operator's role: for what it watches or, with a name, for its Lease of that name.
    Rbac {
        /// Name of the Lease.
        #[arg(long)]
        lease: Option<String>,
    },
    /// Prints the reference of a custom resource, as Markdown.
    Reference {
        /// Which.
        #[arg(default_value = "event-consumer")]
        kind: Kind,
    },
    /// Prints the objects that the operator would make for the custom resources in a file. Needs no cluster.
    Render {
        /// The file, with one or more YAML documents.
        file: PathBuf,
        #[command(flatten)]
        images: RuntimeImages,
        #[command(flatten)]
        traces: TraceSettings,
        /// Ranges of addresses that `http` handlers may call though they are not public.
        #[arg(long, env = "HTTP_ALLOW", default_value = "")]
        http_allow: AddressRanges,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run { images, traces, wake, http_allow, mut watch_namespaces, election, listen } => {
            telemetry::init();
            let settings = Settings { images, http_allow, traces };
            // What an empty variable becomes.
            watch_namespaces.retain(|name| !name.is_empty());
            Box::pin(controller::run(settings, wake, watch_namespaces, listen, &election)).await
        }
        Command::Crd => print_yaml(&EventConsumer::crd()).and_then(|()| {
            println!("---");
            print_yaml(&DeadLetterReplay::crd())
        }),
        Command::Rbac { lease: None } => print_yaml(&rbac::rules()),
        Command::Rbac { lease: Some(name) } => print_yaml(&rbac::lease_rules(&name)),
        Command::Reference { kind } => reference::reference(&kind.definition()).map(|page| print!("{page}")),
        Command::Render { file, images, traces, http_allow } => {
            render::render(&file, &Settings { images, http_allow, traces }).map(|yaml| print!("{yaml}"))
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
