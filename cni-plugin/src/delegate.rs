//! Plugins that are not built in: the configuration that flannel makes for them, and running them.
//!
//! The configuration is kept in `<dataDir>/<container>`, because at DEL subnet.env may say something else or nothing any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::config::Config;
use crate::error::Error;
use crate::files::{self, Lock};
use crate::plan::settings;
use crate::request::{Attachment, Request};
use crate::subnet_env::SubnetEnv;

/// ADD: makes the configuration, keeps it, and lets the plugin do the work. Its result is handed on byte by byte.
pub fn add(request: &Request, config: &Config, owner: &Attachment) -> Result<String, Error> {
    let netconf = netconf(request, config, &SubnetEnv::load(&config.subnet_file)?)?;
    let text = Value::from_iter(netconf).to_string();
    let lock = Lock::take(&config.data_dir)?;
    files::write(&state(config, owner), text.as_bytes())?;
    drop(lock);
    execute(&config.delegate.plugin, &request.path, &text)
}

/// DEL: with the configuration that ADD kept; without one there is nothing to delete.
pub fn del(request: &Request, config: &Config, owner: &Attachment) -> Result<(), Error> {
    let path = state(config, owner);
    let Some(text) = files::read(&path)? else { return Ok(()) };
    execute(&plugin_of(&path, &text)?, &request.path, &text)?;
    files::remove(&path)
}

/// CHECK: with the configuration that ADD kept and the result that the runtime kept.
pub fn check(request: &Request, config: &Config, owner: &Attachment) -> Result<(), Error> {
    let path = state(config, owner);
    let text = files::read(&path)?.ok_or_else(|| Error::UnknownContainer {
        container: owner.container.clone(),
        interface: owner.interface.clone(),
        network: config.name.clone(),
    })?;
    let mut netconf: BTreeMap<String, Value> =
        serde_json::from_str(&text).map_err(|error| broken(&path, &error))?;
    netconf.insert("prevResult".into(), config.prev_result.value().clone());
    execute(&plugin_of(&path, &text)?, &request.path, &Value::from_iter(netconf).to_string()).map(drop)
}

/// STATUS: is the delegate ready too?
pub fn status(request: &Request, config: &Config, env: &SubnetEnv) -> Result<(), Error> {
    let netconf = netconf(request, config, env)?;
    execute(&config.delegate.plugin, &request.path, &Value::from_iter(netconf).to_string()).map(drop)
}

/// GC: the specification wants it handed on. Afterwards the configurations of this network that nobody needs any more go.
pub fn gc(request: &Request, config: &Config, valid: &BTreeSet<Attachment>) -> Result<(), Error> {
    let mut kept = Vec::new();
    for (container, path) in files::list(&config.data_dir)? {
        let text = files::read(&path)?.unwrap_or_default();
        let netconf: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap_or_default();
        if netconf.get("name").and_then(Value::as_str) == Some(&config.name) {
            kept.push((container, path, netconf));
        }
    }
    // Without subnet.env any kept configuration names the delegate and its IPAM as well.
    let netconf = match SubnetEnv::load(&config.subnet_file) {
        Ok(env) => Some(netconf(request, config, &env)?),
        Err(_) => kept.first().map(|(_, _, netconf)| netconf.clone()),
    };
    let Some(mut netconf) = netconf else { return Ok(()) };
    let key = "cni.dev/valid-attachments";
    netconf.insert(key.into(), request.config.get(key)?.value().clone());
    execute(&config.delegate.plugin, &request.path, &Value::from_iter(netconf).to_string())?;
    let stale =
        kept.iter().filter(|(container, ..)| !valid.iter().any(|owner| owner.container == *container));
    stale.map(|(_, path, _)| path).try_for_each(|path| files::remove(path))
}

/// The configuration that flannel makes of its own and subnet.env; its keys are sorted.
pub fn netconf(
    request: &Request,
    config: &Config,
    env: &SubnetEnv,
) -> Result<BTreeMap<String, Value>, Error> {
    let settings = settings(config, env)?;
    let delegate = &config.delegate;
    let mut netconf = BTreeMap::from_iter(delegate.raw.clone());
    netconf.insert("cniVersion".into(), request.version.as_str().into());
    netconf.insert("name".into(), config.name.as_str().into());
    netconf.insert("type".into(), delegate.plugin.as_str().into());
    netconf.entry("ipMasq".into()).or_insert_with(|| (env.ip_masq != Some(true)).into());
    if let Some(mtu) = settings.mtu {
        netconf.entry("mtu".into()).or_insert_with(|| mtu.into());
    }
    if delegate.plugin == "bridge" {
        netconf.entry("isGateway".into()).or_insert_with(|| true.into());
    }
    if let Some(runtime) = &config.runtime_config {
        netconf.insert("runtimeConfig".into(), runtime.clone());
    }
    let mut ipam = BTreeMap::from_iter(config.ipam.raw.clone());
    ipam.insert("type".into(), config.ipam.plugin.as_str().into());
    ipam.insert(
        "ranges".into(),
        settings.subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect(),
    );
    let own = ipam.get("routes").and_then(Value::as_array).cloned().unwrap_or_default();
    let overlay = env.networks.iter().map(|network| json!({ "dst": network }));
    ipam.insert("routes".into(), own.into_iter().chain(overlay).collect());
    netconf.insert("ipam".into(), Value::from_iter(ipam));
    Ok(netconf)
}

/// Keyed as flannel's plugin does it, so that either can delete what the other added.
fn state(config: &Config, owner: &Attachment) -> PathBuf {
    config.data_dir.join(&owner.container)
}

fn plugin_of(path: &Path, text: &str) -> Result<String, Error> {
    let netconf: Value = serde_json::from_str(text).map_err(|error| broken(path, &error))?;
    let plugin = netconf["type"].as_str().unwrap_or("bridge");
    match crate::request::container_id(plugin) {
        Ok(()) => Ok(plugin.to_owned()),
        Err(problem) => Err(broken(path, &problem)),
    }
}

fn broken(path: &Path, problem: &dyn std::fmt::Display) -> Error {
    Error::Decode(format!("the kept configuration {} is damaged ({problem}); remove it", path.display()))
}

/// Runs a plugin of CNI_PATH with this process's environment, which is the runtime's.
fn execute(plugin: &str, searched: &[PathBuf], netconf: &str) -> Result<String, Error> {
    let found = searched.iter().map(|dir| dir.join(plugin)).find(|path| path.is_file());
    let path =
        found.ok_or_else(|| Error::NoDelegate { plugin: plugin.to_owned(), searched: searched.to_vec() })?;
    let run = || {
        let mut child = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that ends before it has read all says why on its stdout.
            let _ = stdin.write_all(netconf.as_bytes());
        }
        child.wait_with_output()
    };
    let output = run().map_err(Error::io("run the plugin", &path))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = serde_json::from_slice(&output.stdout).ok().filter(|error: &Value| error["code"].is_u64());
    Err(Error::Delegate(error.unwrap_or_else(|| {
        let said = String::from_utf8_lossy(&output.stdout);
        json!({ "code": 999, "msg": format!("plugin {plugin} failed ({}): {}", output.status, said.trim()) })
    })))
}
