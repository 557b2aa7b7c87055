//! Running the machine's own tools (`ip`, `ctr`, `kubectl`, …) and telling clearly what went wrong.
//!
//! Only the lab does this; the product itself speaks netlink and the APIs.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs a command to its end and returns its standard output; anything but exit code 0 is an error with its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", shown(command), output.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, whatever its exit code.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("cannot run {}: is it installed? `make deps` does that", shown(command)))
}

/// A command of words, without a shell.
pub fn words(line: &str) -> Command {
    let mut parts = line.split_whitespace();
    let mut command = Command::new(parts.next().unwrap_or("true"));
    command.args(parts);
    command
}

/// Asks `probe` every 100 ms until it yields a value; after `limit` it fails with what was waited for and the last error.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut last = None;
    loop {
        match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        if start.elapsed() > limit {
            let why = last.map_or_else(String::new, |e| format!("; the last answer was: {e:#}"));
            bail!("waited {} s for {what}{why}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn shown(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    format!("`{} {}`", command.get_program().to_string_lossy(), args.join(" "))
}
