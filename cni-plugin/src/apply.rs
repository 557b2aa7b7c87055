//! ADD, DEL and GC of the built-in bridge: the only place that acts on a [`Plan`].
//!
//! An ADD is a list of steps; each has its undoing, which is also its part of DEL. When a step fails, those before it are undone in reverse;
//! DEL undoes all of them, in the same order, and does not mind what is not there. So both leave the same: nothing.
//!
//! ```text
//!  ADD ──► Reserve: an address on disk ─► Remember: record, NAT rules ─► Connect: bridge, veth, addresses, routes
//!  DEL ◄── release                     ◄─ rules without it, forget    ◄─ delete the pair
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use hostnet::{Link, Netlink, nft, sysctl};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::error::Error;
use crate::host;
use crate::ipam::{Pool, gateway};
use crate::nat;
use crate::plan::{Settings, host_interface, plan, settings};
use crate::record::{Record, Records};
use crate::request::Attachment;
use crate::result::{AddResult, Interface, Ip};
use crate::sandbox;
use crate::subnet_env::SubnetEnv;

/// A step of ADD, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The addresses are reserved on disk.
    Reserve,
    /// The record is on disk, and what it wants of NAT is in the kernel.
    Remember,
    /// Bridge, veth pair, addresses, routes.
    Connect,
}

const STEPS: [Step; 3] = [Step::Reserve, Step::Remember, Step::Connect];

/// The network of one configuration, on this host.
pub struct Network<'a> {
    config: &'a Config,
    pool: Pool,
    records: Records,
    netlink: Netlink,
}

impl<'a> Network<'a> {
    /// Opens it; nothing is made yet.
    pub fn open(config: &'a Config) -> Result<Network<'a>, Error> {
        let boot = sysctl::get("kernel/random/boot_id").map_err(Error::kernel("read the boot id"))?;
        Ok(Network {
            config,
            pool: Pool::new(&config.ipam.data_dir, &config.name),
            records: Records::new(&config.data_dir, &config.name, &boot),
            netlink: host::connect()?,
        })
    }

    /// Where its records are.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Where its addresses come from.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The host's netlink.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Connects the container.
    pub async fn add(&self, owner: &Attachment, namespace: &Path) -> Result<AddResult, Error> {
        let settings = settings(self.config, &SubnetEnv::load(&self.config.subnet_file)?)?;
        host::require_other_namespace(namespace)?;
        let addresses = match self.pool.reserve(owner, &settings.subnets) {
            Err(Error::Exhausted { .. }) if self.reclaim()? => self.pool.reserve(owner, &settings.subnets)?,
            reserved => reserved?,
        };
        let mut done = vec![Step::Reserve];
        let added = self.connect(owner, namespace, &settings, &addresses, &mut done).await;
        if added.is_err() {
            for step in done.into_iter().rev() {
                // The first failure is the one to report; what cannot be undone now is left to DEL, which the runtime calls next.
                let _ = self.undo(step, owner).await;
            }
        }
        added
    }

    /// Gives back the addresses of containers that a reboot ended while nobody called DEL. Was there any?
    fn reclaim(&self) -> Result<bool, Error> {
        let dead = self.records.of_former_boots()?;
        for owner in &dead {
            self.pool.release(owner)?;
            self.records.remove(owner)?;
        }
        Ok(!dead.is_empty())
    }

    async fn connect(
        &self,
        owner: &Attachment,
        namespace: &Path,
        settings: &Settings,
        addresses: &[IpNetwork],
        done: &mut Vec<Step>,
    ) -> Result<AddResult, Error> {
        let plan = plan(settings, owner, addresses, &self.config.port_mappings);
        done.push(Step::Remember);
        let bridge = {
            let _lock = self.records.lock()?;
            self.remember(&plan.record)?;
            host::ensure_bridge(&self.netlink, &plan.bridge).await?
        };
        for (name, value) in &plan.sysctls {
            sysctl::set(name, value).map_err(Error::kernel(format!("set {name} to {value}")))?;
        }
        done.push(Step::Connect);
        let outer = host::make_veth(&self.netlink, &plan.veth, namespace).await?;
        let inner = sandbox::configure(namespace, &plan)?;
        host::plug(&self.netlink, &plan.veth, &outer, &bridge).await?;
        let interfaces = vec![
            interface(&bridge, plan.bridge.mtu, Path::new("")),
            interface(&outer, None, Path::new("")),
            interface(&inner, None, namespace),
        ];
        Ok(AddResult {
            ips: addresses.iter().map(|address| ip(address, settings, interfaces.len() - 1)).collect(),
            interfaces,
            routes: plan.routes,
            dns: self.config.dns.clone(),
        })
    }

    /// Disconnects the container; any part of it may be gone already. Neither subnet.env nor the namespace is needed.
    pub async fn del(&self, owner: &Attachment, namespace: Option<&Path>) -> Result<(), Error> {
        let mut first = Ok(());
        if let Some(namespace) = namespace {
            // The Go plugin's attachments have another name on the host, but the same in the container.
            first = sandbox::delete_interface(namespace, &owner.interface);
        }
        for step in STEPS.into_iter().rev() {
            // One step that fails must not keep the others from being undone; the runtime calls DEL again.
            first = first.and(self.undo(step, owner).await);
        }
        first
    }

    /// Removes everything of this network that none of `valid` owns.
    pub async fn gc(&self, valid: &BTreeSet<Attachment>) -> Result<(), Error> {
        let lock = self.records.lock()?;
        let (kept, stale): (Vec<_>, Vec<_>) =
            self.records.all()?.into_iter().partition(|record| valid.contains(&record.attachment()));
        for record in &stale {
            host::delete_link(&self.netlink, &record.host_interface).await?;
        }
        if stale.iter().any(Record::needs_nat) {
            self.write_rules(&kept)?;
        }
        self.records.retain(valid)?;
        drop(lock);
        self.pool.retain(valid)
    }

    /// Removes what a step made. A container without the step is no error.
    async fn undo(&self, step: Step, owner: &Attachment) -> Result<(), Error> {
        match step {
            Step::Reserve => self.pool.release(owner),
            Step::Remember => self.forget(owner),
            Step::Connect => host::delete_link(&self.netlink, &host_interface(owner)).await,
        }
    }

    fn remember(&self, record: &Record) -> Result<(), Error> {
        if let Some((mapping, other)) = nat::port_conflict(&self.records.all()?, record) {
            let subject = format!("host port {}/{}", mapping.host_port, nat::protocol(mapping.protocol));
            let problem =
                format!("container {} has it; give one of the pods another hostPort", other.container);
            return Err(Error::Conflict { subject, problem });
        }
        self.records.put(record)?;
        if record.needs_nat() { self.write_rules(&self.records.all()?) } else { Ok(()) }
    }

    /// The rules go before the record: if they cannot, the next DEL still knows of them.
    fn forget(&self, owner: &Attachment) -> Result<(), Error> {
        if self.records.get(owner)?.is_some_and(|record| record.needs_nat()) {
            let _lock = self.records.lock()?;
            let mut others = self.records.all()?;
            others.retain(|record| record.attachment() != *owner);
            self.write_rules(&others)?;
            return self.records.remove(owner);
        }
        self.records.remove(owner)
    }

    fn write_rules(&self, records: &[Record]) -> Result<(), Error> {
        let rules = nat::ruleset(&self.config.name, records);
        nft::apply(&rules).map_err(Error::kernel("write the rules for host ports and masquerading"))
    }
}

/// `mtu` is for a link that was set to another one after it was looked at.
fn interface(link: &Link, mtu: Option<u32>, sandbox: &Path) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac_text(),
        mtu: mtu.or(Some(link.mtu)),
        sandbox: sandbox.to_owned(),
    }
}

fn ip(address: &IpNetwork, settings: &Settings, interface: usize) -> Ip {
    let subnet = settings.subnets.iter().find(|subnet| subnet.contains(address.ip()));
    Ip { address: *address, gateway: subnet.map(gateway), interface: Some(interface) }
}
