//! What has to be there before anything can be measured.

use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;

/// Programs, and the Debian packages that have them.
const TOOLS: [(&str, &str); 3] = [("etcd", "etcd-server"), ("nft", "nftables"), ("ip", "iproute2")];

/// Whether all is there; what is missing and what to do about it, in a sentence. `go`: flannel's own flanneld, if it is to be
/// measured.
pub fn check(go: Option<&str>, wanted: bool) -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("network namespaces and a TUN need root: run this as root".to_owned());
    }
    let missing: Vec<String> = TOOLS
        .iter()
        .filter(|(program, _)| !is_in_path(program))
        .map(|(program, package)| format!("{program} (package {package})"))
        .collect();
    if !missing.is_empty() {
        return Err(format!("not in PATH: {}; install them", missing.join(", ")));
    }
    match go {
        Some(path) => runs(path),
        None if wanted => Err("the way go needs FLANNELD_GO=<path of flannel's own flanneld>".to_owned()),
        None => Ok(()),
    }
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Asks it for its version, which stands above the figures.
fn runs(path: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("FLANNELD_GO={path} is no flanneld that runs here: {why}"));
    if !Path::new(path).is_absolute() {
        return refuse("an absolute path is needed");
    }
    match Command::new(path).arg("--version").output() {
        Err(error) => refuse(&error.to_string()),
        Ok(output) if !output.status.success() => refuse(&format!("--version ends with {}", output.status)),
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            eprintln!("go: {path}, version {}", String::from_utf8_lossy(&text).trim());
            Ok(())
        }
    }
}
