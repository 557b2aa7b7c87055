//! The binary: arguments, logging, signals.

use std::io::IsTerminal;
use std::process::ExitCode;

use flanneld::config::Cli;
use flanneld::daemon;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let cli = Cli::from_args(std::env::args());
    if cli.version {
        eprintln!("v{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Some(look) = &cli.look {
        return flanneld::look::run(look, &cli.subnet_file).unwrap_or_else(|error| {
            eprintln!("flanneld: {error:#}");
            ExitCode::FAILURE
        });
    }
    let level = if cli.verbosity > 0 { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_max_level(level).with_ansi(terminal).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
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
