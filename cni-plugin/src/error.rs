//! What can go wrong, in the words and numbers of the CNI specification.
//!
//! Every error becomes `{cniVersion, code, msg, details}` on stdout and exit status 1: the runtime shows `msg` in the pod's events, so each
//! text says what failed, on what, and what to do next.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

/// A failed CNI operation. [`Error::code`] gives the number that the specification (section "Error") or this plugin (100 and up) assigns.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration's `cniVersion` is one that this plugin does not speak.
    #[error(
        "incompatible CNI version {found:?} for {verb}; this plugin speaks {supported}: change cniVersion in the network configuration"
    )]
    IncompatibleVersion {
        /// `cniVersion` as it stands in the configuration.
        found: String,
        /// The verb that was asked for.
        verb: &'static str,
        /// The versions that would do.
        supported: String,
    },
    /// A field of a delegate that the built-in bridge does not implement.
    #[error("unsupported field {field} with value {value}: remove it, or use another delegate.type")]
    UnsupportedField {
        /// Dotted path of the field.
        field: String,
        /// Its value, as JSON.
        value: Value,
    },
    /// CHECK for an attachment that was never added or was deleted.
    #[error(
        "unknown attachment: container {container} has no interface {interface} in network {network}; ADD it first"
    )]
    UnknownContainer {
        /// Container id.
        container: String,
        /// Interface name.
        interface: String,
        /// Network name.
        network: String,
    },
    /// A CNI_* variable is missing or malformed.
    #[error("invalid environment: {variable} {problem}")]
    Environment {
        /// The variable's name.
        variable: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// read, write, lock …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Standard input is no JSON object, or too long.
    #[error("cannot decode the network configuration on stdin: {0}")]
    Decode(String),
    /// A field of the configuration has the wrong type or an impossible value.
    #[error("invalid network configuration: {field}: {problem}")]
    Config {
        /// Dotted path of the field, such as `delegate.hairpinMode`.
        field: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// flanneld has not written its subnet yet: worth another try.
    #[error(
        "failed to load flannel 'subnet.env' file: open {}: {}. Check the flannel pod log for this node.",
        path.display(),
        go_reason(source)
    )]
    NoSubnetEnv {
        /// The file that was looked for.
        path: PathBuf,
        /// Why it could not be opened.
        source: std::io::Error,
    },
    /// subnet.env is there but says nothing usable.
    #[error("failed to load flannel 'subnet.env' file {}: {problem}. Check the flannel pod log for this node.", path.display())]
    BadSubnetEnv {
        /// The file.
        path: PathBuf,
        /// The line or key at fault.
        problem: String,
    },
    /// STATUS: an ADD would fail now.
    #[error("the plugin cannot serve ADD now: {0}")]
    NotAvailable(String),
    /// The network namespace is not there or is no network namespace.
    #[error("cannot enter the network namespace {}: {problem}", path.display())]
    Namespace {
        /// CNI_NETNS.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// The kernel refused a step.
    #[error("cannot {step}: {source:#}")]
    Kernel {
        /// The step, as a verb phrase.
        step: String,
        /// Its answer.
        source: anyhow::Error,
    },
    /// Every address of the node's subnet is taken.
    #[error("no address left in {subnet} of network {network} ({taken} reserved in {}): delete pods on this node, or run CNI GC to free what no container uses", dir.display())]
    Exhausted {
        /// The node's subnet.
        subnet: IpNetwork,
        /// Network name.
        network: String,
        /// Reserved addresses.
        taken: usize,
        /// Where the reservations are.
        dir: PathBuf,
    },
    /// CHECK found the kernel in another state than ADD left it in.
    #[error("CHECK of {subject}: {problem}; delete the pod so that it is set up again")]
    Damaged {
        /// Interface, address, route or rule.
        subject: String,
        /// What is different.
        problem: String,
    },
    /// Something else stands where this attachment has to go.
    #[error("{subject} is in the way: {problem}")]
    Conflict {
        /// Interface, address or port.
        subject: String,
        /// Why it cannot be shared.
        problem: String,
    },
    /// The delegate's binary is in no directory of CNI_PATH.
    #[error(
        "failed to find plugin {plugin:?} in path {searched:?}: install it, or use delegate.type \"bridge\", which is built in"
    )]
    NoDelegate {
        /// Its name.
        plugin: String,
        /// CNI_PATH.
        searched: Vec<PathBuf>,
    },
    /// The delegate ran and failed; its own error object is what the runtime gets.
    #[error("delegate plugin failed: {0}")]
    Delegate(Value),
}

impl Error {
    /// The number for the `code` field.
    pub fn code(&self) -> u64 {
        match self {
            Error::IncompatibleVersion { .. } => 1,
            Error::UnsupportedField { .. } => 2,
            Error::UnknownContainer { .. } => 3,
            Error::Environment { .. } => 4,
            Error::Io { .. } => 5,
            Error::Decode(_) => 6,
            Error::Config { .. } => 7,
            Error::NoSubnetEnv { .. } | Error::BadSubnetEnv { .. } => 11,
            Error::NotAvailable(_) => 50,
            Error::Kernel { .. } => 100,
            Error::Exhausted { .. } => 101,
            Error::Damaged { .. } => 102,
            Error::Conflict { .. } => 103,
            Error::Namespace { .. } => 104,
            Error::NoDelegate { .. } => 105,
            Error::Delegate(error) => error["code"].as_u64().unwrap_or(999),
        }
    }

    /// The error as the runtime reads it; `version` is that of the configuration, as far as it was understood.
    pub fn to_json(&self, version: &str) -> Value {
        match self {
            Error::Delegate(error) => error.clone(),
            _ => {
                json!({ "cniVersion": version, "code": self.code(), "msg": self.to_string(), "details": "" })
            }
        }
    }

    /// A configuration error at `field`.
    pub fn config(field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Config { field: field.into(), problem: problem.into() }
    }

    /// An environment error.
    pub fn environment(variable: &'static str, problem: impl Into<String>) -> Error {
        Error::Environment { variable, problem: problem.into() }
    }

    /// For `map_err`: a file operation that failed.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// For `map_err`: a step in the kernel that failed.
    pub fn kernel<E: Into<anyhow::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Error {
        move |source| Error::Kernel { step: step.into(), source: source.into() }
    }

    /// CHECK: `subject` is not as it was.
    pub fn damaged(subject: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Damaged { subject: subject.into(), problem: problem.into() }
    }

    /// `address` cannot be used by this attachment.
    pub fn address_conflict(address: IpAddr, problem: impl Into<String>) -> Error {
        Error::Conflict { subject: address.to_string(), problem: problem.into() }
    }
}

/// The system's reason in the wording of the Go plugin, because people search the web and their dashboards for that sentence.
fn go_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_subnet_env_says_flannels_sentence() {
        let error = Error::NoSubnetEnv {
            path: "/run/flannel/subnet.env".into(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        assert_eq!(
            error.to_json("1.0.0"),
            json!({
                "cniVersion": "1.0.0",
                "code": 11,
                "msg": "failed to load flannel 'subnet.env' file: open /run/flannel/subnet.env: no such file or directory. \
                        Check the flannel pod log for this node.",
                "details": "",
            })
        );
    }
}
