//! `flanneld ping --trace`: at which hop a packet dies. Each stage asks one thing more than the one before, so that the first that
//! fails is where.
//!
//! ```text
//!  route ─ own lease ─ lease ─ host ─ tunnel ─ bridge ─ pod ─ size
//!  here    here        here    peer's    peer's  peer's   pod   as large as
//!                              address   kernel  bridge         pods send
//! ```
//!
//! [`probe`] asks, [`judge`] says what it means (pure).

pub mod echo;
pub mod judge;
#[cfg(test)]
mod judge_tests;
pub mod probe;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hostnet::{Kind, Netlink};
use ipnetwork::IpNetwork;

use super::ask;
use super::status::{Network, Peer, Status};
use echo::Trouble;
use judge::{Delta, Finding, Known, Large, Verdict, Way};
use probe::{Ask, Outcome, Prober};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_millis(1200);
/// Between two questions of a stage.
const GAP: Duration = Duration::from_millis(400);
/// A kernel asks three times, a second apart, before it says that nobody has an address.
const NEIGHBOUR: Duration = Duration::from_millis(3600);
/// In the search for the largest size: answers took far less before.
const SEARCH: Duration = Duration::from_millis(400);
/// Questions of a stage are of this size.
const SMALL: usize = 64;
/// IPv4 and UDP; VXLAN and Ethernet besides.
const BARE: u32 = 28;
const VXLAN: u32 = 50;

/// A trace on its way.
struct Trace<'a> {
    to: Ipv4Addr,
    socket: &'a Path,
    status: Status,
    network: Network,
    prober: Prober,
    tell: &'a mut dyn FnMut(&Finding) -> Result<()>,
    failed: bool,
}

/// Traces the way to an address; tells each finding as it is found. Whether all is well.
pub async fn run(to: Ipv4Addr, socket: &Path, tell: &mut dyn FnMut(&Finding) -> Result<()>) -> Result<bool> {
    let status = ask::status(socket).await?;
    let Some(network) = status.network.clone() else {
        let why = status.subnet_manager.error.clone().unwrap_or_else(|| "it is just starting".to_owned());
        bail!("flanneld does not know its network yet: {why}");
    };
    let prober = Prober::open().context("cannot open a raw socket (root, with CAP_NET_RAW?)")?;
    let mut trace = Trace { to, socket, status, network, prober, tell, failed: false };
    trace.stages().await?;
    Ok(!trace.failed)
}

impl Trace<'_> {
    fn found(&mut self, finding: &Finding) -> Result<bool> {
        self.failed |= finding.verdict == Verdict::Fail;
        (self.tell)(finding)?;
        Ok(!self.failed)
    }

    async fn stages(&mut self) -> Result<()> {
        let (to, status) = (IpAddr::V4(self.to), self.status.clone());
        let local =
            status.lease.as_ref().is_some_and(|own| own.subnets.iter().any(|subnet| subnet.contains(to)));
        let (lease, peer) = judge::lease(to, &status);
        // An address that no node can have needs no look at routes.
        let inside = self.network.networks.iter().any(|network| network.contains(to));
        if inside && !local {
            let finding = self.route(peer).await?;
            if !self.found(&finding)? {
                return Ok(());
            }
        }
        if inside && !self.found(&judge::own(&status))? {
            return Ok(());
        }
        if local {
            return self.pod("this node").map(drop);
        }
        if !self.found(&lease)? {
            return Ok(());
        }
        let Some((peer, IpNetwork::V4(subnet))) = status.peer_of(to) else { return Ok(()) };
        self.peer(host_of(peer)?, subnet.network()).await
    }

    /// From the peer's host on.
    async fn peer(&mut self, peer: Ipv4Addr, tunnel: Ipv4Addr) -> Result<()> {
        // If nobody has the address on the link, the kernel says so after its three questions.
        let outcome = self.ask(peer, SMALL, NEIGHBOUR, None)?;
        let up = outcome.echo.is_some();
        if !self.found(&judge::host(peer, &outcome))? {
            return Ok(());
        }
        if let (Some(port), Some(_)) = (self.network.port, &self.network.device) {
            let outer = Some((peer, port));
            let before = ask::status(self.socket).await?;
            let outcome = self.ask(tunnel, SMALL, PATIENCE, outer)?;
            let after = ask::status(self.socket).await?;
            let known = Known { peer, port, up };
            let finding = judge::tunnel(tunnel, known, &outcome, &delta(&before, &after, peer));
            if !self.found(&finding)? {
                return Ok(());
            }
        }
        if self.to == tunnel {
            return self.size().await;
        }
        let bridge = Ipv4Addr::from(u32::from(tunnel) + 1);
        if self.to != bridge {
            let outcome = self.ask(bridge, SMALL, PATIENCE, None)?;
            self.found(&judge::bridge(bridge, &outcome))?;
        }
        if self.pod(&peer.to_string())? { self.size().await } else { Ok(()) }
    }

    fn pod(&mut self, node: &str) -> Result<bool> {
        let outcome = self.ask(self.to, SMALL, NEIGHBOUR, None)?;
        self.found(&judge::pod(self.to, node, &outcome))
    }

    async fn size(&mut self) -> Result<()> {
        let mtu = self.network.mtu;
        let outcome = self.ask(self.to, mtu as usize, PATIENCE, None)?;
        let told = outcome.trouble.iter().find_map(|(from, what, _)| match what {
            Trouble::TooBig(passes) => Some((*from, *passes)),
            _ => None,
        });
        let large = match (outcome.echo, told, outcome.refused) {
            (Some(_), ..) => Large::Pass,
            (_, Some((from, passes)), _) if self.is_own(from) => Large::Found(passes.into()),
            // The kernel heeds it for the questions after the first.
            (_, Some((from, passes)), _) => Large::Told(from, passes),
            (.., Some(error)) => match self.way().await?.mtu.filter(|known| *known < mtu) {
                Some(passes) => Large::Found(passes),
                None => Large::Refused(error),
            },
            _ => Large::Vanish(self.largest(mtu as usize)),
        };
        let overhead = match self.network.backend.as_str() {
            "udp" => BARE,
            "vxlan" => VXLAN,
            _ => 0,
        };
        self.found(&judge::size(mtu, overhead, &large)).map(drop)
    }

    /// The largest size that passes: half as much is in question after each question.
    fn largest(&mut self, vanishes: usize) -> usize {
        search(SMALL, vanishes, |size| {
            let ask = Ask { to: self.to, size, times: 2, gap: SEARCH, patience: SEARCH, tunnel: None };
            self.prober.ask(ask).is_ok_and(|outcome| outcome.echo.is_some())
        })
    }

    fn ask(
        &mut self,
        to: Ipv4Addr,
        size: usize,
        patience: Duration,
        tunnel: Option<(Ipv4Addr, u16)>,
    ) -> Result<Outcome> {
        Ok(self.prober.ask(Ask { to, size, times: 3, gap: GAP, patience, tunnel })?)
    }

    /// Whether this is the tunnel's own address, in whose name flanneld here answers.
    fn is_own(&self, ip: Ipv4Addr) -> bool {
        let subnets = self.status.lease.as_ref().map(|own| &own.subnets[..]).unwrap_or_default();
        subnets.iter().any(|subnet| subnet.network() == IpAddr::V4(ip))
    }

    /// What the kernel would do with a packet to there.
    async fn way(&self) -> Result<Way> {
        let netlink = Netlink::connect()?;
        Ok(match netlink.route_to(self.to.into()).await {
            Ok(route) if route.kind == Kind::Unreachable => {
                Way { error: Some("it refuses packets to there".to_owned()), ..Way::default() }
            }
            Ok(route) => {
                let links = netlink.links().await?;
                let name =
                    |oif| links.iter().find(|link| Some(link.index) == oif).map(|link| link.name.clone());
                Way {
                    device: name(route.oif),
                    via: route.gateway.map(|ip| ip.to_string()),
                    mtu: route.mtu,
                    error: None,
                }
            }
            Err(error) => Way { error: Some(error.to_string()), ..Way::default() },
        })
    }

    async fn route(&self, peer: Option<&Peer>) -> Result<Finding> {
        let way = self.way().await?;
        let interface = self.status.interface.as_ref().map(|interface| interface.name.as_str());
        let plain = way.device.as_deref() == interface
            && peer.is_some_and(|peer| peer.public_ips.iter().any(|ip| way.via == Some(ip.to_string())));
        // Peers on the own link may be reached by plain routes, whatever the backend (DirectRouting).
        let device = self.network.device.as_deref().filter(|_| !plain || peer.is_none());
        let device = device.or(interface).unwrap_or("the backend's device");
        Ok(judge::route(self.to, &way, device, self.network.mtu))
    }
}

/// Where a peer is reached by IPv4: the tunnel's outer packets are of that family.
fn host_of(peer: &Peer) -> Result<Ipv4Addr> {
    let v4 = peer.public_ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    v4.context("its lease has no IPv4 address of the host")
}

/// The largest size below `fails` that passes; `passes` does.
fn search(mut passes: usize, mut fails: usize, mut so: impl FnMut(usize) -> bool) -> usize {
    while fails - passes > 1 {
        let middle = usize::midpoint(passes, fails);
        if so(middle) {
            passes = middle;
        } else {
            fails = middle;
        }
    }
    passes
}

/// What was counted between two looks.
fn delta(before: &Status, after: &Status, peer: Ipv4Addr) -> Delta {
    let of = |status: &Status| {
        let found = status.peers.iter().find(|there| there.public_ips.contains(&IpAddr::V4(peer)));
        found.and_then(|there| there.traffic)
    };
    let mut delta = Delta::default();
    if let (Some(before), Some(after)) = (of(before), of(after)) {
        delta.out = Some(after.out_packets.saturating_sub(before.out_packets));
        delta.into = Some(after.in_packets.saturating_sub(before.in_packets));
        delta.lost = after.lost.saturating_sub(before.lost);
    }
    for (direction, total) in &after.totals {
        for (reason, count) in &total.drops {
            let was = before.totals.get(direction).and_then(|total| total.drops.get(reason)).copied();
            let more = count.saturating_sub(was.unwrap_or(0));
            if more > 0 {
                delta.drops.push((format!("{direction} {reason}"), more));
            }
        }
    }
    delta
}
