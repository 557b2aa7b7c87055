//! `lab up | down | images`: what the Makefile calls. `hold` and `spawn` are the lab's own, for inside a host.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use e2e::lab::Lab;
use e2e::{host, images, tour};

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
    Up,
    /// End it and remove all that it made
    Down,
    /// Build the images into .lab/images
    Images,
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

fn main() -> Result<()> {
    let lab = Lab::at(&std::env::current_dir()?)?;
    match Cli::parse().command {
        Verb::Up => {
            lab.up()?;
            tour::show(&lab)
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
        Verb::Hold { name, dir } => host::hold(&name, &dir),
        Verb::Spawn { name, dir, program } => host::spawn(&name, &dir, &program),
    }
}
