//! The extension backend: the user's own programs carry the packets, and are told which subnet is where. Names, order and environment
//! of the commands are flannel's, as of its versions that use no shell.
//!
//! ```text
//!  PreStartupCommand ─ its output ─► the own lease's BackendData
//!  PostStartupCommand     with NETWORK, SUBNET, PUBLIC_IP, once there is a lease
//!  SubnetAddCommand       with SUBNET, PUBLIC_IP, and the other node's BackendData as standard input
//!  SubnetRemoveCommand    the same
//! ```
//!
//! The commands for other nodes' subnets run in a task of their own, one at a time, so that one that hangs holds up neither the own
//! lease nor anything else. The task gets the whole picture and finds out by itself what is new and what is gone.

mod command;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::config::network::{BadNetwork, get};
use crate::family::Dual;
use crate::lease::key::{Advert, Lease};
use command::{CommandLine, Failed};

/// What leases call it.
pub const TYPE: &str = "extension";
/// So long a command may run.
const LIMIT: Duration = Duration::from_secs(30);
/// After so long a subnet that could not be added is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The commands of the network's configuration; each may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    before: Option<CommandLine>,
    after: Option<CommandLine>,
    add: Option<CommandLine>,
    remove: Option<CommandLine>,
}

impl Options {
    /// From the `Backend` object.
    pub fn parse(map: &Map<String, Value>) -> Result<Options, BadNetwork> {
        let command = |name: &str| match get(map, name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(CommandLine::parse(text)),
            Some(_) => {
                Err(BadNetwork::Field { field: "Backend", problem: format!("{name} must be a string") })
            }
        };
        Ok(Options {
            before: command("PreStartupCommand")?,
            after: command("PostStartupCommand")?,
            add: command("SubnetAddCommand")?,
            remove: command("SubnetRemoveCommand")?,
        })
    }

    /// Says what will not work as it may have been meant.
    fn warn(&self) {
        for command in [&self.before, &self.after, &self.add, &self.remove].into_iter().flatten() {
            if let Some(sign) = command.for_a_shell() {
                tracing::warn!(
                    "extension: {sign} in {command:?} is handed on as it stands: commands run without a shell; put them into a script"
                );
            }
        }
    }

    /// Runs the command for a subnet of another node.
    async fn tell(&self, step: &Step) -> Result<(), Failed> {
        let (command, what) = match step {
            Step::Add(_) => (&self.add, "added"),
            Step::Remove(_) => (&self.remove, "removed"),
        };
        let (Some(command), lease) = (command, step.lease()) else { return Ok(()) };
        let variables = [("SUBNET", text(&lease.subnets.v4)), ("PUBLIC_IP", text(&lease.public.v4))];
        let wrote = command.run(&variables, &data(lease).unwrap_or_default(), LIMIT).await?;
        tracing::info!(subnet = %lease.subnets, "extension: {what}: {wrote}");
        Ok(())
    }
}

/// As a variable; empty if there is none.
fn text(value: &Option<impl ToString>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// What another node's lease hands on; none if it is of another backend or no string.
fn data(lease: &Lease) -> Option<String> {
    match &lease.backend.data.v4 {
        _ if lease.backend.kind != TYPE => None,
        None => Some(String::new()),
        Some(data) => serde_json::from_str(data).ok(),
    }
}

/// The user's programs, and what they have been told.
#[derive(Debug)]
pub struct Extension {
    options: Options,
    data: Option<String>,
    wanted: watch::Sender<Vec<Lease>>,
    /// Runs from the first start on: no node is told of before the command that makes all ready.
    worker: Option<JoinHandle<()>>,
}

impl Extension {
    /// Runs the first command.
    pub async fn prepare(options: Options) -> Result<Extension> {
        options.warn();
        let mut data = None;
        if let Some(command) = &options.before {
            let wrote = command.run(&[], "", LIMIT).await.context("extension: PreStartupCommand")?;
            data = Some(serde_json::to_string(&wrote)?);
        }
        Ok(Extension { options, data, wanted: watch::Sender::new(Vec::new()), worker: None })
    }

    /// What the own lease says.
    pub fn advert(&self) -> Advert {
        let data = Dual { v4: self.data.clone(), v6: None };
        Advert { kind: TYPE.to_owned(), data, ..Advert::default() }
    }

    /// Runs the command that follows the lease, and then those for the other nodes.
    pub async fn start(
        &mut self,
        networks: &Dual<IpNetwork>,
        own: &Dual<IpNetwork>,
        public: &Dual<IpAddr>,
    ) -> Result<()> {
        if let Some(command) = &self.options.after {
            let variables =
                [("NETWORK", text(&networks.v4)), ("SUBNET", text(&own.v4)), ("PUBLIC_IP", text(&public.v4))];
            let wrote = command.run(&variables, "", LIMIT).await.context("extension: PostStartupCommand")?;
            tracing::info!("extension: started: {wrote}");
        }
        let (options, news) = (&self.options, &self.wanted);
        self.worker.get_or_insert_with(|| tokio::spawn(follow(options.clone(), news.subscribe())));
        Ok(())
    }

    /// Hands the picture of the other nodes' leases to the task; it may be busy with an older one.
    pub fn publish(&self, leases: Vec<Lease>) {
        self.wanted.send_if_modified(|wanted| {
            let new = *wanted != leases;
            *wanted = leases;
            new
        });
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.abort();
        }
    }
}

/// What the programs are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Remove(Lease),
    Add(Lease),
}

impl Step {
    fn lease(&self) -> &Lease {
        match self {
            Step::Remove(lease) | Step::Add(lease) => lease,
        }
    }
}

type Known = BTreeMap<Dual<IpNetwork>, Lease>;

/// What has to be told, given what was told and what is so. Pure.
fn steps(known: &Known, leases: &[Lease]) -> Vec<Step> {
    let wanted: Known = leases
        .iter()
        .filter(|lease| data(lease).is_some())
        .map(|lease| (lease.subnets, lease.clone()))
        .collect();
    let gone = known.values().filter(|lease| wanted.get(&lease.subnets) != Some(lease));
    let new = wanted.values().filter(|lease| known.get(&lease.subnets) != Some(lease));
    gone.cloned().map(Step::Remove).chain(new.cloned().map(Step::Add)).collect()
}

/// Tells what is new, until nobody has news any more.
async fn follow(options: Options, mut news: watch::Receiver<Vec<Lease>>) {
    let mut known = Known::new();
    loop {
        let leases = news.borrow_and_update().clone();
        let mut missing = false;
        for step in steps(&known, &leases) {
            let told = options.tell(&step).await;
            if let Err(error) = &told {
                tracing::error!(subnet = %step.lease().subnets, "extension: {error}");
            }
            match step {
                // What could not be removed is not tried again: as a rule it was gone.
                Step::Remove(lease) => drop(known.remove(&lease.subnets)),
                Step::Add(lease) if told.is_ok() => drop(known.insert(lease.subnets, lease)),
                Step::Add(_) => missing = true,
            }
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if missing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(subnet: &str, last: u8, kind: &str, data: &str) -> Lease {
        let data = Dual { v4: Some(data.to_owned()).filter(|data| !data.is_empty()), v6: None };
        let backend = Advert { kind: kind.into(), data, ..Advert::default() };
        let public = Dual::only_v4([192, 0, 2, last].into());
        Lease { subnets: Dual::only_v4(subnet.parse().unwrap()), public, backend }
    }

    #[test]
    fn options_are_strings_or_missing() {
        let parse = |value: Value| Options::parse(value.as_object().unwrap());
        let options =
            parse(json!({ "subnetaddcommand": "ip route add $SUBNET", "PreStartupCommand": " " })).unwrap();
        assert!(options.add.is_some() && options.before.is_none() && options.remove.is_none());
        assert!(parse(json!({ "SubnetAddCommand": ["ip", "route"] })).is_err());
    }

    #[test]
    fn what_is_told_is_the_difference() {
        let (a, b) = (lease("10.5.1.0/24", 1, TYPE, r#""x""#), lease("10.5.2.0/24", 2, TYPE, ""));
        let moved = Lease { public: Dual::only_v4([192, 0, 2, 9].into()), ..a.clone() };
        let foreign = [lease("10.5.3.0/24", 3, "vxlan", "{}"), lease("10.5.4.0/24", 4, TYPE, "{}")];
        let known = Known::from([(a.subnets, a.clone()), (b.subnets, b.clone())]);
        assert_eq!(steps(&known, &[b.clone(), a.clone()]), []);
        assert_eq!(steps(&Known::new(), &foreign), [], "of another backend, or of another form");
        assert_eq!(
            steps(&known, std::slice::from_ref(&moved)),
            [Step::Remove(a.clone()), Step::Remove(b), Step::Add(moved)]
        );
        assert_eq!(data(&a).as_deref(), Some("x"));
    }
}
