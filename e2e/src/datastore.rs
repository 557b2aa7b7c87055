//! The store behind the cluster: the one that kubelite brings, or Debian's etcd on the first host in its place.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::Host;
use crate::run::wait_for;

/// The name of etcd's program.
const ETCD: &str = "etcd";
/// Within the host; on the lab's disk.
const DATA: &str = "/var/lib/kubelite/etcd";
const START: Duration = Duration::from_secs(20);

/// What `lab up --datastore` chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Datastore {
    /// kubelite's own store.
    Embedded,
    /// A real etcd, without TLS.
    Etcd,
}

impl Datastore {
    /// Starts what has to run before `kubelite server`, and returns the server's flags for it.
    pub fn start(self, host: &Host) -> Result<Vec<String>> {
        match self {
            Datastore::Embedded => Ok(Vec::new()),
            Datastore::Etcd => {
                start_etcd(host)?;
                Ok(vec![format!("--etcd-endpoints={}", endpoint(host))])
            }
        }
    }

    /// What the running host has.
    pub fn of(host: &Host) -> Datastore {
        if host.program(ETCD).is_some() { Datastore::Etcd } else { Datastore::Embedded }
    }

    /// Kills an etcd that runs beside kubelite, and starts it again.
    pub fn restart(self, host: &Host) -> Result<()> {
        let Some(pid) = host.program(ETCD) else { return Ok(()) };
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("cannot kill etcd")?;
        wait_for("etcd to be gone", Duration::from_secs(5), || {
            Ok(host.program(ETCD).is_none().then_some(()))
        })?;
        start_etcd(host)
    }

    /// etcdctl, as the one who may do all.
    pub fn etcdctl(self, host: &Host) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3");
        match self {
            Datastore::Etcd => {
                command.arg(format!("--endpoints={}", endpoint(host)));
            }
            Datastore::Embedded => {
                let tls = host.dir.join("lib/server/tls");
                command.arg(format!("--endpoints=https://{}:2379", host.ip));
                command.arg("--cacert").arg(tls.join("etcd-ca.crt"));
                command
                    .arg("--cert")
                    .arg(tls.join("etcd-root.crt"))
                    .arg("--key")
                    .arg(tls.join("etcd-root.key"));
            }
        }
        command
    }
}

fn endpoint(host: &Host) -> String {
    format!("http://{}:2379", host.ip)
}

fn start_etcd(host: &Host) -> Result<()> {
    let url = endpoint(host);
    let arguments = [
        format!("--data-dir={DATA}"),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
    ];
    host.spawn("etcd.log", Path::new(ETCD), &arguments)?;
    wait_for("etcd to answer", START, || {
        Ok(TcpStream::connect(format!("{}:2379", host.ip)).is_ok().then_some(()))
    })
    .with_context(|| format!("is etcd-server installed? Look at {}", host.dir.join("etcd.log").display()))
}
