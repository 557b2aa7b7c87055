//! The binary: arguments, logging, signals.

use std::io::IsTerminal;
use std::process::ExitCode;

use flanneld::config::Cli;
use flanneld::daemon;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> ExitCode {
    let cli = Cli::from_args(std::env::args());
    if cli.version {
        eprintln!("v{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    log(cli.verbosity);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(verbosity: u8) {
    let level = if verbosity > 0 { LevelFilter::DEBUG } else { LevelFilter::INFO };
    // It speaks of each handshake of each peer; what is lost by one that failed is counted.
    let protocol = if verbosity > 0 { LevelFilter::DEBUG } else { LevelFilter::OFF };
    let targets = Targets::new().with_default(level).with_target("boringtun", protocol);
    let lines = tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines.with_writer(std::io::stderr)).with(targets).init();
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let config = cli.config()?;
    // The control side is one thread; the data path has two of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
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
