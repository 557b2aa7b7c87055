//! Looking into a running flanneld: `flanneld status`, `flanneld capture`, `flanneld ping`.
//!
//! The daemon's part is [`board`], where control notes what it knows; it is asked by [`ask`]. All else is for whoever
//! looks: it sends packets and reads interfaces of this host, and changes nothing.

pub mod ask;
pub mod board;
pub mod capture;
pub mod ping;
pub mod show;
pub mod status;
pub mod trace;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub enum Look {
    /// Show the running flanneld's lease, peers, routes, counters and drops
    Status(StatusArgs),
    /// Show the tunnel's packets, outer and inner, or write them to a pcapng file
    Capture(capture::CaptureArgs),
    /// Ping an address of the pod network; with --trace, say where packets to it end
    Ping(ping::PingArgs),
}

/// How something is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `flanneld status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// How it is printed
    #[arg(short, long, alias = "o", value_enum, default_value_t)]
    output: Output,
}

/// Runs one of them; an exit code that scripts can use.
pub fn run(look: &Look, subnet_file: &Path) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this looks into the daemon and sends raw packets: run it as root");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = crate::config::socket(subnet_file);
    match look {
        Look::Status(args) => {
            let status = runtime.block_on(ask::status(&socket))?;
            match args.output {
                Output::Text => print(&show::text(&status))?,
                Output::Json => print(&(serde_json::to_string_pretty(&status)? + "\n"))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Look::Capture(args) => runtime.block_on(capture::run(args, &socket)),
        Look::Ping(args) => runtime.block_on(ping::run(args, &socket)),
    }
}

/// Prints; a reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
