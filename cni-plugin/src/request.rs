//! What the runtime asks for: `CNI_*` variables and the configuration on stdin, checked by the specification's rules before anything is touched.
//!
//! Nothing here reads the process environment or stdin: [`Request::parse`] gets both as values, so that a test can hand it any nonsense.

use std::path::PathBuf;

use crate::error::Error;
use crate::json::Field;
use crate::version::Version;

/// The longest configuration that is read from stdin; a real one has a few kilobytes, GC lists of a thousand attachments about 150.
pub const MAX_STDIN: usize = 4 << 20;

/// Kernel limit: IFNAMSIZ is 16 with the terminating zero.
pub const MAX_IFNAME: usize = 15;

/// Container ids are file names here, and the kernel's limit for those is 255 bytes; room is left for a suffix.
const MAX_CONTAINER_ID: usize = 200;

/// Which interface of which container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_IFNAME.
    pub interface: String,
}

/// The verb with what it needs from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Connect the container.
    Add {
        /// Which interface.
        attachment: Attachment,
        /// Path of the namespace.
        netns: PathBuf,
    },
    /// Disconnect; the namespace may be gone already.
    Del {
        /// Which interface.
        attachment: Attachment,
        /// Path of the namespace, if the runtime still has one.
        netns: Option<PathBuf>,
    },
    /// Is everything still as ADD left it?
    Check {
        /// Which interface.
        attachment: Attachment,
        /// Path of the namespace.
        netns: PathBuf,
    },
    /// Would an ADD work?
    Status,
    /// Remove what no valid attachment uses.
    Gc,
    /// Which versions do you speak?
    Version,
}

impl Verb {
    /// The verb's name in CNI_COMMAND.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Add { .. } => "ADD",
            Verb::Del { .. } => "DEL",
            Verb::Check { .. } => "CHECK",
            Verb::Status => "STATUS",
            Verb::Gc => "GC",
            Verb::Version => "VERSION",
        }
    }
}

/// One invocation.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to do.
    pub verb: Verb,
    /// `cniVersion` of the configuration; results are written in it.
    pub version: Version,
    /// The configuration, not interpreted yet.
    pub config: Field,
    /// CNI_PATH, split: where delegates are looked up.
    pub path: Vec<PathBuf>,
}

impl Request {
    /// Checks environment (`env` returns a variable's value) and stdin.
    pub fn parse(env: impl Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<Request, Error> {
        let verb = verb(&env)?;
        arguments(env("CNI_ARGS"))?;
        let path = env("CNI_PATH").filter(|path| !path.is_empty());
        if path.is_none() && !matches!(verb, Verb::Version | Verb::Status) {
            return Err(Error::environment("CNI_PATH", "is not set"));
        }
        if stdin.len() > MAX_STDIN {
            return Err(Error::Decode(format!("it is longer than {MAX_STDIN} bytes")));
        }
        // VERSION needs no configuration at all.
        let config = match (&verb, stdin.trim_ascii()) {
            (Verb::Version, b"") => {
                Field::root(serde_json::json!({ "cniVersion": Version::NEWEST.as_str() }))
            }
            (_, b"") => return Err(Error::Decode("it is empty".to_owned())),
            (_, text) => {
                Field::root(serde_json::from_slice(text).map_err(|error| Error::Decode(error.to_string()))?)
            }
        };
        config.object()?;
        let version = match (&verb, config.get("cniVersion")?.string()?) {
            (Verb::Version, found) => found.and_then(Version::parse).unwrap_or(Version::NEWEST),
            (_, found) => Version::require(found.unwrap_or("0.1.0"), &verb)?,
        };
        Ok(Request {
            verb,
            version,
            config,
            path: path.map(|path| std::env::split_paths(&path).collect()).unwrap_or_default(),
        })
    }
}

fn verb(env: &impl Fn(&str) -> Option<String>) -> Result<Verb, Error> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    let netns = || match set("CNI_NETNS") {
        Some(path) if path.contains('\0') => Err(Error::environment("CNI_NETNS", "contains a zero byte")),
        Some(path) if !path.starts_with('/') => {
            Err(Error::environment("CNI_NETNS", format!("is {path:?}, which is no absolute path")))
        }
        path => Ok(path.map(PathBuf::from)),
    };
    let required_netns = || netns()?.ok_or_else(|| Error::environment("CNI_NETNS", "is not set"));
    match set("CNI_COMMAND").as_deref() {
        Some("ADD") => Ok(Verb::Add { attachment: attachment(&set)?, netns: required_netns()? }),
        Some("DEL") => Ok(Verb::Del { attachment: attachment(&set)?, netns: netns()? }),
        Some("CHECK") => Ok(Verb::Check { attachment: attachment(&set)?, netns: required_netns()? }),
        Some("STATUS") => Ok(Verb::Status),
        Some("GC") => Ok(Verb::Gc),
        Some("VERSION") => Ok(Verb::Version),
        Some(other) => Err(Error::environment(
            "CNI_COMMAND",
            format!("is {other:?}; known are ADD, DEL, CHECK, GC, STATUS, VERSION"),
        )),
        None => Err(Error::environment(
            "CNI_COMMAND",
            "is not set; a container runtime runs this program, not a person",
        )),
    }
}

fn attachment(set: &impl Fn(&str) -> Option<String>) -> Result<Attachment, Error> {
    let container =
        set("CNI_CONTAINERID").ok_or_else(|| Error::environment("CNI_CONTAINERID", "is not set"))?;
    container_id(&container)
        .map_err(|problem| Error::environment("CNI_CONTAINERID", format!("is {container:?}: {problem}")))?;
    let interface = set("CNI_IFNAME").ok_or_else(|| Error::environment("CNI_IFNAME", "is not set"))?;
    interface_name(&interface)
        .map_err(|problem| Error::environment("CNI_IFNAME", format!("is {interface:?}: {problem}")))?;
    Ok(Attachment { container, interface })
}

/// The specification's rule for container ids (and network names): `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`. No id can therefore leave a directory.
pub fn container_id(id: &str) -> Result<(), String> {
    if id.len() > MAX_CONTAINER_ID {
        return Err(format!("longer than {MAX_CONTAINER_ID} bytes"));
    }
    let mut bytes = id.bytes();
    match bytes.next() {
        None => return Err("empty".to_owned()),
        Some(first) if !first.is_ascii_alphanumeric() => {
            return Err("must begin with a letter or digit".to_owned());
        }
        Some(_) => {}
    }
    match bytes.find(|byte| !byte.is_ascii_alphanumeric() && !b"_.-".contains(byte)) {
        Some(bad) => {
            Err(format!("{:?} is not allowed; letters, digits, '_', '.' and '-' are", char::from(bad)))
        }
        None => Ok(()),
    }
}

/// The kernel's and the specification's rule for interface names.
pub fn interface_name(name: &str) -> Result<(), String> {
    match name {
        "" => return Err("empty".to_owned()),
        "." | ".." => return Err("is a directory, not a name".to_owned()),
        _ if name.len() > MAX_IFNAME => return Err(format!("longer than {MAX_IFNAME} bytes")),
        _ => {}
    }
    match name
        .chars()
        .find(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control() || !c.is_ascii())
    {
        Some(bad) => Err(format!("{bad:?} is not allowed in an interface's name")),
        None => Ok(()),
    }
}

/// CNI_ARGS is `key=value;key=value`. None of the keys means anything to this plugin, a malformed list is an error all the same.
fn arguments(args: Option<String>) -> Result<(), Error> {
    let Some(args) = args else { return Ok(()) };
    match args.split(';').find(|pair| !pair.is_empty() && !pair.contains('=')) {
        Some(pair) => {
            Err(Error::environment("CNI_ARGS", format!("contains {pair:?}, which is no key=value pair")))
        }
        None => Ok(()),
    }
}
