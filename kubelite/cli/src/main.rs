//! `kubelite`: the composition root. It reads the command line, starts the parts and wires them; it decides nothing else.

mod agent;
mod args;
mod backing;
mod containerd;
mod dns;
mod files;
mod flannel;
mod join;
mod node;
mod node_keys;
mod pki;
mod publish;
mod server;
mod services;
mod token;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Verb};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("KUBELITE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("kubelite starts containers and sets up networks: run it as root");
    }
    // Two threads are enough for a small machine, and each thread more costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let ended = stop_on_signals(shutdown.clone());
        let work = async {
            match cli.command {
                Verb::Server(args) => server::run(args, shutdown.clone()).await,
                Verb::Agent(args) => agent::run(args, shutdown.clone()).await,
            }
        };
        tokio::select! { done = work => done, failed = ended => failed }
    })
}

/// SIGTERM and SIGINT end kubelite in order; pods run on. Returns only if the signals cannot be heard.
async fn stop_on_signals(shutdown: CancellationToken) -> Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    tracing::info!("stopping; pods run on");
    shutdown.cancel();
    std::future::pending().await
}
