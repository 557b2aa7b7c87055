//! `lab up | down | images`: what the Makefile calls. `hold` and `spawn` are the lab's own, for inside a host.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use e2e::datastore::Datastore;
use e2e::lab::{Lab, Subnets};
use e2e::{host, images, measure, tour};

/// Three hosts on one machine, with a kubelite cluster on them.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the cluster and show it
    Up {
        /// What the API server keeps its objects in
        #[arg(long, value_enum, default_value = "embedded")]
        datastore: Datastore,
        /// How flannel carries packets: udp, vxlan or host-gw
        #[arg(long, default_value = "udp")]
        backend: String,
        /// Where flannel's subnets come from
        #[arg(long, value_enum, default_value = "etcd")]
        subnets: Subnets,
    },
    /// End it and remove all that it made
    Down,
    /// Build the images into .lab/images
    Images,
    /// Measure what the running cluster costs when it is idle
    Measure {
        /// How to print it; a pipe gets JSON
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
    /// Become a host's first process (the lab starts this itself)
    #[command(hide = true)]
    Hold { name: String, dir: PathBuf },
    /// Start a program inside a host (the lab starts this itself)
    #[command(hide = true)]
    Spawn {
        name: String,
        dir: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
}

/// For people or for programs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[allow(clippy::print_stderr)] // A sentence for whoever called.
fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)] // The result is what the command is for.
fn run(cli: Cli) -> Result<()> {
    let lab = Lab::at(&std::env::current_dir()?)?;
    match cli.command {
        Verb::Up { datastore, backend, subnets } => {
            lab.up(datastore, &backend, subnets)?;
            tour::show(&lab, &backend)
        }
        Verb::Down => {
            lab.down()?;
            lab.step("the lab is gone");
            Ok(())
        }
        Verb::Images => {
            for archive in images::build(&lab.dir.join("images"))? {
                lab.step(&format!("{}", archive.display()));
            }
            Ok(())
        }
        Verb::Measure { output } => {
            lab.step(&format!("watching the idle cluster for {} s", measure::INTERVAL.as_secs()));
            let rows = measure::idle(&lab)?;
            let terminal = if std::io::stdout().is_terminal() { Format::Table } else { Format::Json };
            match output.unwrap_or(terminal) {
                Format::Table => print!("{}", measure::table(&rows)),
                Format::Json => println!("{}", serde_json::to_string(&rows)?),
            }
            Ok(())
        }
        Verb::Hold { name, dir } => host::hold(&name, &dir),
        Verb::Spawn { name, dir, program } => host::spawn(&name, &dir, &program),
    }
}
