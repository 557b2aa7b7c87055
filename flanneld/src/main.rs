//! The binary: arguments, logging, signals.

use std::process::ExitCode;

use flanneld::config::Cli;
use flanneld::{daemon, docker_opts};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    if let Some(code) = docker_opts::called(std::env::args()) {
        return code;
    }
    let cli = Cli::from_args(std::env::args());
    if cli.wants_version() {
        eprintln!("v{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Some(look) = &cli.look {
        return flanneld::look::run(look, &cli.subnet_file).unwrap_or_else(|error| {
            eprintln!("flanneld: {error:#}");
            ExitCode::FAILURE
        });
    }
    cli.logging().init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let ready = cli.asks_readiness();
    let config = cli.config()?;
    // The control side is one thread; the data path has two of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if ready {
        let path = config.socket();
        if !runtime.block_on(daemon::is_ready(&path))? {
            anyhow::bail!("no flanneld of this container carries packets (asked by {})", path.display());
        }
        return Ok(());
    }
    runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            outcome = daemon::run(config) => outcome,
            _ = term.recv() => Ok(()),
            _ = int.recv() => Ok(()),
        }
    })?;
    tracing::info!("exiting; the device and its route stay, so that no pod packet leaves in clear");
    Ok(())
}
