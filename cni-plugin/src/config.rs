//! The network configuration: flannel's fields, the built-in bridge's under `delegate`, and host-local's under `ipam`.
//!
//! Syntax only. What the fields mean together with subnet.env stands in [`crate::plan`].

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::error::Error;
use crate::json::Field;
use crate::request::{Attachment, container_id, interface_name};
use crate::result::{AddResult, Dns, Route};

/// Fields of the bridge plugin that the built-in bridge lacks. Ignoring them would give a network that its author did not ask for.
const UNSUPPORTED: [&str; 8] = [
    "vlan",
    "vlanTrunk",
    "promiscMode",
    "macspoofchk",
    "portIsolation",
    "disableContainerInterface",
    "isLayer2",
    "uplinkInterface",
];

/// Host ports of one container; a pod that wants more is a mistake.
const MAX_PORT_MAPPINGS: usize = 1024;

/// A configuration whose every known field has the right type.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Network name.
    pub name: String,
    /// Where flanneld writes the node's subnet.
    pub subnet_file: PathBuf,
    /// Where this plugin keeps what DEL, CHECK and GC need to know.
    pub data_dir: PathBuf,
    /// `delegate`, as it stands there.
    pub delegate: Delegate,
    /// `ipam`.
    pub ipam: Ipam,
    /// `runtimeConfig`, as it stands there.
    pub runtime_config: Option<Value>,
    /// `runtimeConfig.portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// `dns`, which is passed on in the result.
    pub dns: Dns,
    /// `prevResult`: for CHECK, what ADD answered. Not interpreted here, because DEL must not fail because of it.
    pub prev_result: Field,
    /// `cni.dev/valid-attachments`: for GC, what is still in use.
    pub valid_attachments: Vec<Attachment>,
}

/// `delegate`: how the container is connected.
#[derive(Debug, Clone, PartialEq)]
pub struct Delegate {
    /// The plugin; `bridge` (the default) is built in.
    pub plugin: String,
    /// All its fields, for a plugin that is not built in.
    pub raw: serde_json::Map<String, Value>,
    /// Name of the bridge; `cni0` unless said otherwise.
    pub bridge: String,
    /// MTU of bridge and veth; subnet.env's unless said otherwise.
    pub mtu: Option<u32>,
    /// May a container reach itself by way of the bridge (its own service address)?
    pub hairpin: bool,
    /// Does the bridge carry the gateway's address? True unless said otherwise.
    pub is_gateway: Option<bool>,
    /// Is the bridge the containers' default gateway?
    pub is_default_gateway: bool,
    /// Does the plugin masquerade what leaves the network? Unless said otherwise: if flanneld does not.
    pub ip_masq: Option<bool>,
}

/// `ipam`: what of it the built-in host-local understands.
#[derive(Debug, Clone, PartialEq)]
pub struct Ipam {
    /// The plugin; `host-local` (the default) is built in.
    pub plugin: String,
    /// All its fields, for a delegate that is not built in.
    pub raw: serde_json::Map<String, Value>,
    /// Directory of the reservations, one directory per network in it.
    pub data_dir: PathBuf,
    /// Further routes of the container.
    pub routes: Vec<Route>,
}

/// One host port that leads to a container's port.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port on the node.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Only this address of the node; all of them if there is none.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// Transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Config {
    /// Checks the whole configuration; the first field that is wrong is named in the error.
    pub fn parse(root: &Field) -> Result<Config, Error> {
        let name = root.get("name")?.string()?.unwrap_or_default().to_owned();
        container_id(&name).map_err(|problem| Error::config("name", format!("{name:?}: {problem}")))?;
        let runtime = root.get("runtimeConfig")?;
        runtime.object()?;
        Ok(Config {
            name,
            subnet_file: path(&root.get("subnetFile")?, "/run/flannel/subnet.env")?,
            data_dir: path(&root.get("dataDir")?, "/var/lib/cni/flannel")?,
            delegate: delegate(&root.get("delegate")?)?,
            ipam: ipam(&root.get("ipam")?)?,
            runtime_config: runtime.is_set().then(|| runtime.value().clone()),
            port_mappings: port_mappings(&runtime.get("portMappings")?)?,
            dns: typed(&root.get("dns")?)?.unwrap_or_default(),
            prev_result: root.get("prevResult")?,
            valid_attachments: valid_attachments(&root.get("cni.dev/valid-attachments")?)?,
        })
    }

    /// `prevResult`, read as a result.
    pub fn previous(&self) -> Result<AddResult, Error> {
        typed(&self.prev_result)?.ok_or_else(|| {
            Error::config("prevResult", "is missing; the runtime must pass ADD's result to CHECK")
        })
    }

    /// Does this binary connect the container itself, with no other plugin?
    pub fn is_built_in(&self) -> bool {
        self.delegate.plugin == "bridge" && self.ipam.plugin == "host-local"
    }
}

fn delegate(field: &Field) -> Result<Delegate, Error> {
    let raw = field.object()?.cloned().unwrap_or_default();
    for taken in ["name", "ipam"] {
        if raw.contains_key(taken) {
            return Err(Error::config(format!("delegate.{taken}"), "it'll be set by flannel: remove it"));
        }
    }
    let delegate = Delegate {
        plugin: plugin_name(&field.get("type")?, "bridge")?,
        raw,
        bridge: field.get("bridge")?.string()?.unwrap_or("cni0").to_owned(),
        mtu: mtu(&field.get("mtu")?)?,
        hairpin: field.get("hairpinMode")?.bool()?.unwrap_or(false),
        is_gateway: field.get("isGateway")?.bool()?,
        is_default_gateway: field.get("isDefaultGateway")?.bool()?.unwrap_or(false),
        ip_masq: field.get("ipMasq")?.bool()?,
    };
    if delegate.plugin == "flannel" {
        return Err(Error::config("delegate.type", "flannel cannot delegate to itself"));
    }
    if delegate.plugin == "bridge" {
        interface_name(&delegate.bridge).map_err(|problem| {
            Error::config("delegate.bridge", format!("{:?}: {problem}", delegate.bridge))
        })?;
        unsupported(field)?;
    }
    Ok(delegate)
}

/// A field that is off (false, 0, "", null, empty) asks for nothing.
fn unsupported(field: &Field) -> Result<(), Error> {
    for name in UNSUPPORTED {
        let field = field.get(name)?;
        let off = match field.value() {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_u64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if !off {
            return Err(Error::UnsupportedField {
                field: field.path().to_owned(),
                value: field.value().clone(),
            });
        }
    }
    Ok(())
}

fn ipam(field: &Field) -> Result<Ipam, Error> {
    let routes = field.get("routes")?.list()?;
    Ok(Ipam {
        plugin: plugin_name(&field.get("type")?, "host-local")?,
        raw: field.object()?.cloned().unwrap_or_default(),
        data_dir: path(&field.get("dataDir")?, "/var/lib/cni/networks")?,
        routes: routes.iter().map(route).collect::<Result<_, _>>()?,
    })
}

fn route(field: &Field) -> Result<Route, Error> {
    let dst: Option<IpNetwork> = field.get("dst")?.parsed("a prefix such as 10.0.0.0/8")?;
    Ok(Route {
        dst: dst.ok_or_else(|| Error::config(format!("{}.dst", field.path()), "is missing"))?,
        gw: field.get("gw")?.parsed("an address")?,
    })
}

fn port_mappings(field: &Field) -> Result<Vec<PortMapping>, Error> {
    let items = field.list()?;
    if items.len() > MAX_PORT_MAPPINGS {
        return Err(Error::config(
            field.path(),
            format!("has {} entries, at most {MAX_PORT_MAPPINGS} are taken", items.len()),
        ));
    }
    let mut mappings = Vec::new();
    for item in &items {
        // containerd passes a container's ports without a host port as 0: nothing is to be mapped for those.
        let host_port = port(&item.get("hostPort")?)?.unwrap_or(0);
        let container_port = port(&item.get("containerPort")?)?.unwrap_or(0);
        let protocol = protocol(&item.get("protocol")?)?;
        let host_ip = item.get("hostIP")?;
        let host_ip =
            if host_ip.string()? == Some("") { None } else { host_ip.parsed::<IpAddr>("an address")? };
        if host_port == 0 {
            continue;
        }
        if container_port == 0 {
            return Err(Error::config(format!("{}.containerPort", item.path()), "is missing or 0"));
        }
        mappings.push(PortMapping {
            host_port,
            container_port,
            protocol,
            host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
        });
    }
    Ok(mappings)
}

fn protocol(field: &Field) -> Result<Protocol, Error> {
    match field.string()?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "tcp") => Ok(Protocol::Tcp),
        Some("udp") => Ok(Protocol::Udp),
        Some("sctp") => Ok(Protocol::Sctp),
        Some(_) => Err(field.wrong("tcp, udp or sctp")),
    }
}

fn valid_attachments(field: &Field) -> Result<Vec<Attachment>, Error> {
    let member = |item: &Field, name: &str, rule: fn(&str) -> Result<(), String>| {
        let field = item.get(name)?;
        let value = field.string()?.unwrap_or_default();
        rule(value).map_err(|problem| Error::config(field.path(), format!("{value:?}: {problem}")))?;
        Ok(value.to_owned())
    };
    let attachment = |item: &Field| {
        Ok(Attachment {
            container: member(item, "containerID", container_id)?,
            interface: member(item, "ifname", interface_name)?,
        })
    };
    field.list()?.iter().map(attachment).collect()
}

fn port(field: &Field) -> Result<Option<u16>, Error> {
    Ok(field.number(u64::from(u16::MAX))?.and_then(|port| u16::try_from(port).ok()))
}

/// 0 means "not said", as in the bridge plugin. The kernel takes 68 and more for IPv4.
fn mtu(field: &Field) -> Result<Option<u32>, Error> {
    match field.number(65_535)? {
        None | Some(0) => Ok(None),
        Some(mtu) if mtu < 68 => Err(field.wrong("an MTU from 68 to 65535")),
        Some(mtu) => Ok(u32::try_from(mtu).ok()),
    }
}

fn path(field: &Field, default: &str) -> Result<PathBuf, Error> {
    let path = field.string()?.filter(|path| !path.is_empty()).unwrap_or(default);
    if !path.starts_with('/') || path.contains('\0') {
        return Err(field.wrong("an absolute path"));
    }
    Ok(PathBuf::from(path))
}

/// A plugin is looked up in the directories of CNI_PATH: its name must not lead out of them.
fn plugin_name(field: &Field, default: &str) -> Result<String, Error> {
    let name = field.string()?.filter(|name| !name.is_empty()).unwrap_or(default);
    container_id(name).map_err(|problem| Error::config(field.path(), format!("{name:?}: {problem}")))?;
    Ok(name.to_owned())
}

fn typed<T: serde::de::DeserializeOwned>(field: &Field) -> Result<Option<T>, Error> {
    match field.value() {
        Value::Null => Ok(None),
        value => {
            T::deserialize(value).map(Some).map_err(|error| Error::config(field.path(), error.to_string()))
        }
    }
}
