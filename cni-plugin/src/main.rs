//! The binary `flannel` (and, under that name, `loopback`): reads environment and stdin, writes one JSON object, exits 0 or 1.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use cni_plugin::error::Error;
use cni_plugin::request::{MAX_STDIN, Request};
use cni_plugin::run::{Answer, serve};
use cni_plugin::version::Version;

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let read = std::io::stdin().lock().take(MAX_STDIN as u64 + 1).read_to_end(&mut stdin);
    let answer = match read {
        Ok(_) => run(&stdin),
        Err(error) => Err(Error::Decode(error.to_string())),
    };
    let (text, code) = match answer {
        Ok(Answer::Nothing) => (String::new(), ExitCode::SUCCESS),
        Ok(Answer::Json(json)) => (format!("{json}\n"), ExitCode::SUCCESS),
        Ok(Answer::Text(text)) => (text, ExitCode::SUCCESS),
        Err(error) => (format!("{}\n", error.to_json(version_of(&stdin))), ExitCode::FAILURE),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        // The runtime is gone and will call DEL.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(stdin: &[u8]) -> Result<Answer, Error> {
    let request = Request::parse(|name| std::env::var(name).ok(), stdin)?;
    let program = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(Error::kernel("start the runtime"))?.block_on(serve(&program, &request))
}

/// An error is written in the version of the configuration, as far as that can be read.
fn version_of(stdin: &[u8]) -> &'static str {
    let config: Option<serde_json::Value> = serde_json::from_slice(stdin).ok();
    let version = config.as_ref().and_then(|config| config["cniVersion"].as_str()).and_then(Version::parse);
    version.unwrap_or(Version::NEWEST).as_str()
}
