//! The `loopback` plugin: sets `lo` up. containerd before 2.0 looks a plugin of this name up for every pod, so this binary also answers to
//! it, by the name it is called under or by the configuration's `type`.

use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::request::{Request, Verb};
use crate::result::{AddResult, Interface, Ip};
use crate::run::Answer;
use crate::sandbox::{Observed, set_loopback};

/// Its one interface.
const LO: &str = "lo";

/// Answers a request.
pub fn serve(request: &Request) -> Result<Answer, Error> {
    match &request.verb {
        Verb::Add { netns, .. } => {
            let made = result(&set_loopback(netns, true)?, netns);
            // In a chain the result of the plugin before this one is the result of the chain.
            let previous = request.config.get("prevResult")?;
            Ok(Answer::Json(if previous.is_set() {
                previous.value().clone()
            } else {
                made.to_json(request.version)
            }))
        }
        Verb::Del { netns, .. } => match netns.as_deref().map(|netns| set_loopback(netns, false)) {
            None | Some(Ok(_) | Err(Error::Namespace { .. })) => Ok(Answer::Nothing),
            Some(Err(error)) => Err(error),
        },
        Verb::Check { netns, .. } => match crate::sandbox::observe(netns, LO)?.link {
            Some(lo) if lo.up => Ok(Answer::Nothing),
            Some(_) => Err(Error::damaged(LO, "it is down")),
            None => Err(Error::damaged(LO, "the container has none")),
        },
        Verb::Status | Verb::Gc => Ok(Answer::Nothing),
        Verb::Version => Ok(Answer::Json(crate::result::versions(request.version))),
    }
}

/// Is this request for the loopback plugin? `program` is what the binary was called as.
pub fn is_meant(program: &Path, config_type: &Value) -> bool {
    program.file_name().is_some_and(|name| name == "loopback") || config_type == "loopback"
}

fn result(observed: &Observed, namespace: &Path) -> AddResult {
    let mac = observed.link.as_ref().map(hostnet::Link::mac_text).unwrap_or_default();
    let mtu = observed.link.as_ref().map(|lo| lo.mtu);
    let ip = |address: &hostnet::Address| Ip { address: address.net, gateway: None, interface: Some(0) };
    AddResult {
        interfaces: vec![Interface { name: LO.to_owned(), mac, mtu, sandbox: namespace.to_owned() }],
        ips: observed.addresses.iter().map(ip).collect(),
        ..AddResult::default()
    }
}
