//! The fast path of the udp backend: where the kernel's programs are attached, and whether.
//!
//! They are attached so that they outlive flanneld: a successor puts its own in their place in one step each, and none of its packets falls
//! between. Whoever does not use them (another backend, `--fast-path=off`) takes away what is found of them.

use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use hostnet::program::{Classifier, Hook};
use hostnet::{Link, Netlink};
use ipnetwork::Ipv4Network;

use crate::datapath::counters::Meters;
use crate::datapath::fast::{Neighbour, Place, Program, Programs};
use crate::datapath::path::Feature;
use crate::owner::{DEVICES, Owner};

/// The kind of an interface that leads to another namespace.
const VETH: &str = "veth";
/// Kinds of interfaces that are not themselves a way to another kernel but lead over one that is.
const OVER_A_WIRE: [&str; 4] = ["bond", "team", "vlan", "bridge"];

/// Whether the fast path is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Wherever the kernel can.
    On,
    /// As on, but not over a veth: there the kernel copies each packet for XDP and cuts again what GRO has joined, so that streams are
    /// slower than by flanneld itself.
    #[default]
    Auto,
    /// Not at all.
    Off,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        match text {
            "on" => Ok(Wanted::On),
            "auto" => Ok(Wanted::Auto),
            "off" => Ok(Wanted::Off),
            _ => Err(format!("{text} is none of on, auto, off")),
        }
    }
}

/// See the module.
pub struct FastPath {
    programs: Programs,
    owner: Owner,
    meters: Meters,
    told: Option<Told>,
    /// Where the programs were told to find packets; none: what was told last is not in their maps yet.
    place: Option<Place>,
    /// The interface to the other nodes at which they are attached.
    attached: Option<u32>,
    inbound: Inbound,
}

/// What the programs are to know.
struct Told {
    own: Ipv4Network,
    others: Vec<Neighbour>,
    until: Option<Instant>,
}

/// How packets come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inbound {
    /// A program in the driver of the interface.
    Driver,
    /// By way of flanneld: the driver takes no program, or has somebody else's.
    User,
    /// By way of flanneld: another network of this host has its programs at the interface, where there is room for one.
    Others,
}

fn loaded(wanted: Wanted, external: &Link) -> Option<Programs> {
    let interface = &external.name;
    if wanted == Wanted::Off {
        return None;
    }
    if wanted == Wanted::Auto && external.kind.as_deref() == Some(VETH) {
        tracing::info!(interface, "no fast path in the kernel over a veth, unless --fast-path=on");
        return None;
    }
    // A frame on any other link begins differently.
    if external.mac.len() != 6 {
        tracing::info!(interface, "no fast path in the kernel: the interface is none of Ethernet");
        return None;
    }
    Programs::load()
        .inspect_err(|error| {
            tracing::warn!("no fast path in the kernel, flanneld itself carries all packets: {error}");
        })
        .ok()
}

impl FastPath {
    /// Loads the programs, if they are wanted and the kernel takes them; says why not.
    pub fn load(wanted: Wanted, external: &Link, meters: &Meters, owner: &Owner) -> Option<FastPath> {
        let Some(programs) = loaded(wanted, external) else {
            announce(meters, false, false);
            return None;
        };
        meters.set_fast(programs.carried());
        Some(FastPath {
            programs,
            owner: owner.clone(),
            meters: meters.clone(),
            told: None,
            place: None,
            attached: None,
            inbound: Inbound::User,
        })
    }

    /// Takes over the leases; [`FastPath::ensure`] tells the programs.
    pub fn publish(&mut self, own: Ipv4Network, others: Vec<Neighbour>, until: Option<Instant>) {
        self.told = Some(Told { own, others, until });
        self.place = None;
        self.narrow_ways();
    }

    /// Without a lease nothing is carried.
    pub fn withdraw(&mut self) -> Result<()> {
        self.told = None;
        Ok(self.programs.withdraw()?)
    }

    /// Tells the programs what is new, attaches them once there are leases, and puts back what somebody took away.
    pub async fn ensure(&mut self, netlink: &Netlink, place: Place) -> Result<()> {
        if self.told.is_none() {
            return Ok(());
        }
        if self.place != Some(place) {
            self.place = Some(place);
            self.write()?;
        }
        let programs = &self.programs;
        let number = |program| programs.program(program).map(|(number, _)| number);
        let outbound = netlink.classifier(place.device, Hook::Egress).await?;
        let inbound = netlink.classifier(place.underlay, Hook::Ingress).await?;
        let is = |there: &Option<Classifier>, program| there.as_ref().map(|c| c.program) == number(program);
        let right = is(&outbound, Program::Out)
            && match self.inbound {
                Inbound::Others => Ours::is_others(inbound.as_ref(), &self.owner),
                Inbound::User => is(&inbound, Program::In),
                Inbound::Driver => {
                    is(&inbound, Program::In)
                        && netlink.driver_program(place.underlay).await? == number(Program::Driver)
                }
            };
        if right { Ok(()) } else { self.attach(netlink, place).await }
    }

    async fn attach(&mut self, netlink: &Netlink, place: Place) -> Result<()> {
        let programs = &self.programs;
        if let Some(before) = self.attached.replace(place.underlay).filter(|before| *before != place.underlay)
        {
            // It may be gone with all that it had.
            let _ = remove(netlink, before, &self.owner).await;
        }
        let program = |program| programs.program(program).context("a program is gone from the kernel");
        let (driver, (_, inbound), (_, outbound)) =
            (program(Program::Driver)?, program(Program::In)?, program(Program::Out)?);
        netlink.set_classifier(place.device, Hook::Egress, "flannel_out", outbound).await?;
        let before = netlink.classifier(place.underlay, Hook::Ingress).await?;
        if Ours::is_others(before.as_ref(), &self.owner) {
            self.inbound = Inbound::Others;
            tracing::info!("what comes in does not take the fast path: the interface has another network's");
            announce(&self.meters, true, false);
            return Ok(());
        }
        let ours = Ours::read(before.as_ref().map_or("", |classifier| &classifier.name));
        // The one that hands on what the driver lets through comes first, and says whose the program in the driver is.
        let there = netlink.driver_program(place.underlay).await?;
        let name = ours.and(there, driver.0).name(&self.owner);
        netlink.set_classifier(place.underlay, Hook::Ingress, &name, inbound).await?;
        self.inbound = match put_into_driver(netlink, place.underlay, driver, &ours).await {
            Ok(()) => Inbound::Driver,
            Err(error) => {
                tracing::info!("what comes in does not take the fast path: {error:#}");
                Inbound::User
            }
        };
        tracing::info!(inbound = ?self.inbound, "the kernel carries packets by the fast path");
        announce(&self.meters, true, self.inbound == Inbound::Driver);
        Ok(())
    }

    /// Tells the programs what they are to know.
    fn write(&self) -> Result<()> {
        let (Some(told), Some(place)) = (&self.told, &self.place) else { return Ok(()) };
        Ok(self.programs.publish(told.own, place, told.others.iter().copied(), told.until)?)
    }

    /// Tells what the programs carried to those who want to know which ways are used, and the programs which ways were found to be narrow.
    pub fn tend(&mut self) {
        self.meters.refresh();
        if self.narrow_ways()
            && let Err(error) = self.write()
        {
            tracing::warn!("the kernel's programs cannot be told of a way: {error:#}");
        }
    }

    /// Whether a way has become narrow, or is not any more.
    fn narrow_ways(&mut self) -> bool {
        let mut changed = false;
        for peer in self.told.iter_mut().flat_map(|told| &mut told.others) {
            let narrow = self.meters.peers.of(peer.next_hop.into()).way.limit().is_some();
            changed |= std::mem::replace(&mut peer.narrow, narrow) != narrow;
        }
        changed
    }
}

fn announce(meters: &Meters, out: bool, into: bool) {
    meters.path.set(Feature::FastOut, out);
    meters.path.set(Feature::FastIn, into);
}

/// Whether what leaves by an interface comes to a wire, where every super-packet has been cut.
pub fn leads_to_a_wire(link: &Link) -> bool {
    link.kind.as_ref().is_none_or(|kind| OVER_A_WIRE.contains(&kind.as_str()))
}

/// Programs in a driver that this flanneld put there: their numbers, as the name of the classifier at the same interface has them, with whose
/// it is. To ask the kernel whose a program is, one would need more rights than to load one.
#[derive(Debug, PartialEq, Eq)]
struct Ours(Vec<u32>);

impl Ours {
    const NAME: &str = "flannel_in";

    fn read(name: &str) -> Ours {
        let numbers = name.strip_prefix(Ours::NAME).unwrap_or_default().split_whitespace();
        Ours(numbers.filter_map(|number| number.parse().ok()).collect())
    }

    /// The one that is there, if it is one of those, and a new one: which of both is there, is not known for a moment.
    fn and(&self, there: Option<u32>, number: u32) -> Ours {
        let there = there.filter(|there| self.0.contains(there) && *there != number);
        Ours(there.into_iter().chain([number]).collect())
    }

    fn name(&self, owner: &Owner) -> String {
        let numbers = self.0.iter().fold(Ours::NAME.to_owned(), |name, number| format!("{name} {number}"));
        format!("{numbers} {}", owner.word())
    }

    /// Whether a classifier is another flanneld's.
    fn is_others(there: Option<&Classifier>, owner: &Owner) -> bool {
        there.is_some_and(|there| owner.is_others(there.name.split_whitespace().last()))
    }
}

/// Puts the program into the driver, in place of an earlier flanneld's, but of nobody else's.
async fn put_into_driver(
    netlink: &Netlink,
    link: u32,
    (number, fd): (u32, BorrowedFd<'_>),
    ours: &Ours,
) -> Result<()> {
    match netlink.driver_program(link).await? {
        Some(there) if there == number => Ok(()),
        Some(there) if !ours.0.contains(&there) => bail!("another program is in the driver of the interface"),
        there => Ok(netlink.set_driver_program(link, fd, there.is_some()).await?),
    }
}

/// Takes away what an earlier flanneld of this network attached.
pub async fn remove(netlink: &Netlink, underlay: u32, owner: &Owner) -> Result<()> {
    if let Some(inbound) = netlink.classifier(underlay, Hook::Ingress).await?
        && !Ours::is_others(Some(&inbound), owner)
    {
        if netlink.driver_program(underlay).await?.is_some_and(|it| Ours::read(&inbound.name).0.contains(&it))
        {
            netlink.delete_driver_program(underlay).await?;
            tracing::info!("took an earlier flanneld's program out of the driver");
        }
        netlink.delete_classifier(underlay, Hook::Ingress).await?;
    }
    let links = netlink.links().await?;
    let ours = |link: &&Link| link.name.starts_with(DEVICES) && !owner.is_others(link.alias.as_deref());
    for device in links.iter().filter(ours) {
        netlink.delete_classifier(device.index, Hook::Egress).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Dual;

    #[test]
    fn the_programs_in_the_driver_are_known_by_the_classifiers_name() {
        let [owner, other] = ["/a.env", "/b.env"].map(|file| Owner::new(file.as_ref(), Dual::default()));
        let first = Ours::read("").and(None, 7).name(&owner);
        assert_eq!(first, "flannel_in 7 flanneld:/a.env");
        let second = Ours::read(&first).and(Some(7), 9).name(&owner);
        assert_eq!(second, "flannel_in 7 9 flanneld:/a.env");
        let both = Ours::read(&second);
        assert_eq!(both.and(Some(7), 12), Ours(vec![7, 12]), "the second came no further");
        assert_eq!(both.and(Some(9), 12), Ours(vec![9, 12]));
        assert_eq!(both.and(Some(9), 9), Ours(vec![9]), "put back");
        assert_eq!(both.and(Some(5), 9), Ours(vec![9]), "somebody else's");
        assert_eq!(Ours::read("somebody's 7"), Ours(vec![]));
        let there = |name: String| Some(Classifier { program: 7, name });
        assert!(Ours::is_others(there(first.clone()).as_ref(), &other));
        assert!(!Ours::is_others(there(first).as_ref(), &owner));
        assert!(!Ours::is_others(there("flannel_in 7".into()).as_ref(), &other), "of an earlier version");
    }
}
