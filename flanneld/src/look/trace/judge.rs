//! What each stage of a trace shows, and what to do next. Pure: the status, what the kernel says and what came back in, a finding out.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::Serialize;

use super::echo::Trouble;
use super::probe::Outcome;
use crate::look::show::span;
use crate::look::status::{Network, Peer, Status};

/// Whether a stage is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is.
    Ok,
    /// It can't be told; what follows may show it.
    Unsure,
    /// Packets end here.
    Fail,
}

/// What a stage shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub stage: &'static str,
    /// Whether it is passed.
    pub verdict: Verdict,
    /// What was seen.
    pub says: String,
    /// What to do about it.
    pub next: Option<String>,
}

fn ok(stage: &'static str, says: impl Into<String>) -> Finding {
    Finding { stage, verdict: Verdict::Ok, says: says.into(), next: None }
}

fn unsure(stage: &'static str, says: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { stage, verdict: Verdict::Unsure, says: says.into(), next: Some(next.into()) }
}

fn fail(stage: &'static str, says: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { stage, verdict: Verdict::Fail, says: says.into(), next: Some(next.into()) }
}

/// The way that the kernel takes to the address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// Out of which device.
    pub device: Option<String>,
    /// The next hop.
    pub via: Option<String>,
    /// The largest packet that it takes, if it is known.
    pub mtu: Option<u32>,
    /// Why there is none.
    pub error: Option<String>,
}

/// Where a packet leaves for the tunnel. `device` is the one that the backend has.
pub fn route(to: Ipv4Addr, way: &Way, device: &str, mtu: u32) -> Finding {
    const STAGE: &str = "route";
    if let Some(error) = &way.error {
        let next = "flanneld puts its routes back within seconds; if this stays, its log says why it cannot";
        return fail(STAGE, format!("this host has no route to {to}: {error}"), next);
    }
    let found = way.device.as_deref().unwrap_or("no device");
    let via = way.via.as_ref().map(|via| format!(" via {via}")).unwrap_or_default();
    if found != device {
        let next = format!(
            "a more special route, or a rule of policy routing, takes it away: ip route get {to}; ip rule"
        );
        return fail(STAGE, format!("{to} leaves by {found}{via}, not by {device}"), next);
    }
    match way.mtu.filter(|found| *found != mtu) {
        Some(found) if found < mtu => unsure(
            STAGE,
            format!("{to} leaves by {device}{via}, but with MTU {found}, not {mtu}"),
            "somebody told this host of a narrower way, or set the route: ip route get shows it; it ends by itself in ten minutes",
        ),
        Some(found) => fail(
            STAGE,
            format!("{to} leaves by {device}{via} with MTU {found}; the tunnel takes {mtu}"),
            format!("set the MTU of {device} and its route back, or restart flanneld"),
        ),
        None => ok(STAGE, format!("{to} leaves by {device}{via}, MTU {mtu}")),
    }
}

/// The own lease.
pub fn own(status: &Status) -> Finding {
    const STAGE: &str = "own lease";
    let from = &status.subnet_manager;
    let why = from.error.as_ref().map(|error| format!("; {}: {error}", from.kind)).unwrap_or_default();
    match &status.lease {
        None => fail(
            STAGE,
            format!("this node has no lease, so nothing is forwarded{why}"),
            format!(
                "flanneld takes one as soon as {0} lets it: look at {0}, and at flanneld's log",
                from.kind
            ),
        ),
        Some(_) if !status.ready => fail(
            STAGE,
            "this node has a lease, but its data path does not run",
            "flanneld's log says why (device, port or routes)",
        ),
        Some(own) => match own.safe_for {
            Some(left) => {
                ok(STAGE, format!("{} is this node's, for {} at least", join(&own.subnets), span(left)))
            }
            None => ok(STAGE, format!("{} is this node's, reserved", join(&own.subnets))),
        },
    }
}

fn join(all: &[impl ToString]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The lease that covers the address.
pub fn lease(to: IpAddr, status: &Status) -> (Finding, Option<&Peer>) {
    const STAGE: &str = "lease";
    let inside = |network: &Network| network.networks.iter().any(|network| network.contains(to));
    let outside = status.network.as_ref().filter(|network| !inside(network));
    if let Some(network) = outside {
        let says = format!("{to} is not in the pod network {}", join(&network.networks));
        return (
            fail(STAGE, says, "is there a typo in the address? flanneld carries the pod network only"),
            None,
        );
    }
    match status.peer_of(to) {
        Some((peer, subnet)) => {
            (ok(STAGE, format!("{subnet} is held by {}", join(&peer.public_ips))), Some(peer))
        }
        None => {
            let says = format!(
                "no lease covers {to}: no node has that subnet (other nodes with a lease: {})",
                status.peers.len()
            );
            let next = "its node's flanneld is not running or has lost its lease, or the address is wrong: flanneld status lists the leases";
            (fail(STAGE, says, next), None)
        }
    }
}

/// The peer's host itself, outside of the tunnel.
pub fn host(peer: Ipv4Addr, outcome: &Outcome) -> Finding {
    const STAGE: &str = "host";
    if let Some(time) = outcome.echo {
        return ok(STAGE, format!("{peer} answers in {}", milliseconds(time)));
    }
    if let Some(refused) = &outcome.refused {
        return fail(
            STAGE,
            format!("this host cannot send to {peer}: {refused}"),
            "look at its routes and firewall",
        );
    }
    match outcome.trouble.iter().find(|(_, _, outer)| !outer) {
        Some((from, Trouble::Host | Trouble::Net, _)) => fail(
            STAGE,
            format!("{peer} is not reached: {from} finds no way to it"),
            "the host is down, or its cable, switch port or route: look at the host itself",
        ),
        _ => unsure(
            STAGE,
            format!("{peer} does not answer pings"),
            "a firewall may drop them: what follows shows whether the host is up",
        ),
    }
}

/// What changed in this host's own counters during a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Packets to the peer; none where the kernel carries them.
    pub out: Option<u64>,
    /// Packets from the peer.
    pub into: Option<u64>,
    /// Packets to it that the kernel did not take.
    pub lost: u64,
    /// What was dropped, and why: as `out NoRoute`.
    pub drops: Vec<(String, u64)>,
}

impl Delta {
    /// Why so many packets of a direction or more were dropped, if they were. Other packets are about as well: IPv6's, which the kernel
    /// sends into the device by itself, are none of ours.
    fn dropped(&self, direction: &str, least: u16) -> Option<&str> {
        let ours = |reason: &str| {
            reason.strip_prefix(direction).is_some_and(|reason| ![" Version", " Short"].contains(&reason))
        };
        let found = self.drops.iter().find(|(reason, count)| ours(reason) && *count >= least.into());
        found.map(|(reason, _)| reason.as_str())
    }

    fn told(&self) -> String {
        let drops = self.drops.iter().map(|(reason, count)| format!("{count} dropped ({reason})"));
        let lost = (self.lost > 0).then(|| format!("{} not taken by the kernel", self.lost));
        let traffic = self.out.zip(self.into).map(|(out, into)| format!("{out} packets out, {into} in"));
        let told: Vec<String> = traffic.into_iter().chain(lost).chain(drops).collect();
        if told.is_empty() {
            String::new()
        } else {
            format!(" [counted here meanwhile: {}]", told.join(", "))
        }
    }
}

/// What is known of a peer before the tunnel is tried.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Where it is.
    pub peer: Ipv4Addr,
    /// The tunnel's port.
    pub port: u16,
    /// Whether its host answered.
    pub up: bool,
}

/// The peer's tunnel address: answered by its kernel, by way of both flannelds.
pub fn tunnel(address: Ipv4Addr, known: Known, outcome: &Outcome, delta: &Delta) -> Finding {
    const STAGE: &str = "tunnel";
    let Known { peer, port, up } = known;
    if let Some(time) = outcome.echo {
        return ok(
            STAGE,
            format!("{address}, the tunnel's end on {peer}, answers in {}", milliseconds(time)),
        );
    }
    let counted = delta.told();
    if let Some(refused) = &outcome.refused {
        return fail(
            STAGE,
            format!("this host cannot send to {address}: {refused}"),
            "a firewall on this host? nft list ruleset",
        );
    }
    if let Some(finding) = refused(known, outcome, &counted) {
        return finding;
    }
    if let Some(reason) = delta.dropped("in", outcome.sent) {
        return fail(
            STAGE,
            format!("answers may have come, but this host drops what comes: {reason}{counted}"),
            "docs/debugging.md says what each reason means; in Sender: the peer sends from another address than its lease says",
        );
    }
    let stays_here = delta.out.is_some_and(|out| out < outcome.sent.into());
    if stays_here && (delta.lost > 0 || delta.dropped("out", 1).is_some()) {
        return fail(
            STAGE,
            format!("this host does not get its packets out{counted}"),
            "docs/debugging.md says what each reason means",
        );
    }
    if up {
        return fail(
            STAGE,
            format!(
                "{peer} is up, but nothing comes back by UDP {port}: it is filtered on the way, one way or the other, or the flanneld there hangs{counted}"
            ),
            format!(
                "let UDP {port} pass between the nodes both ways; flanneld capture --peer on both hosts shows which way is cut"
            ),
        );
    }
    fail(
        STAGE,
        format!("{peer} answers neither pings nor UDP {port}: the host is down or cut off{counted}"),
        format!("look at the host itself; a firewall that drops both looks the same: let UDP {port} pass"),
    )
}

/// Somebody tells what became of the tunnel's datagram.
fn refused(known: Known, outcome: &Outcome, counted: &str) -> Option<Finding> {
    const STAGE: &str = "tunnel";
    let Known { peer, port, .. } = known;
    let (from, what, _) = outcome.trouble.iter().find(|(_, _, outer)| *outer)?;
    match what {
        Trouble::Port if *from == peer => Some(fail(
            STAGE,
            format!("{peer} is up, but nobody listens on UDP {port} there: its flanneld is dead{counted}"),
            format!("start flanneld on {peer}, or read why it ended: kubectl logs --previous, journalctl"),
        )),
        Trouble::Prohibited | Trouble::Port => Some(fail(
            STAGE,
            format!("{from} refuses UDP {port} to {peer}{counted}"),
            format!("let UDP {port} pass between the nodes in {from}'s firewall"),
        )),
        Trouble::Host | Trouble::Net => Some(fail(
            STAGE,
            format!("{from} finds no way to {peer}{counted}"),
            "the host is down, or the way to it",
        )),
        _ => None,
    }
}

/// The pods' bridge on the peer.
pub fn bridge(address: Ipv4Addr, outcome: &Outcome) -> Finding {
    const STAGE: &str = "bridge";
    match (outcome.echo, outcome.trouble.first()) {
        (Some(time), _) => {
            ok(STAGE, format!("{address}, the pods' bridge there, answers in {}", milliseconds(time)))
        }
        (None, Some((from, Trouble::Net | Trouble::Host | Trouble::Expired, _))) => unsure(
            STAGE,
            format!("{address}: {from} says there is none"),
            "no pod has run on that node yet, or its CNI plugin uses another bridge",
        ),
        (None, _) => unsure(
            STAGE,
            format!("{address} does not answer"),
            "a firewall on that node may drop pings; the pod shows more",
        ),
    }
}

/// The pod.
pub fn pod(address: Ipv4Addr, node: &str, outcome: &Outcome) -> Finding {
    const STAGE: &str = "pod";
    if let Some(time) = outcome.echo {
        return ok(STAGE, format!("{address} answers in {}", milliseconds(time)));
    }
    let list = "does it still run, and is that its address? kubectl get pods -A -o wide";
    match outcome.trouble.iter().find(|(_, _, outer)| !outer) {
        Some((from, Trouble::Host, _)) => fail(
            STAGE,
            format!("there is no pod {address} on {node}: {from} finds nobody at that address"),
            list,
        ),
        Some((from, Trouble::Prohibited, _)) => fail(
            STAGE,
            format!("{from} refuses packets to {address}"),
            "a firewall or network policy on that node",
        ),
        Some((from, Trouble::Net | Trouble::Expired, _)) => fail(
            STAGE,
            format!("{from} has no way to {address}: its node does not know the pods' bridge"),
            format!("no pod runs on that node, or its bridge has another subnet than the lease; {list}"),
        ),
        _ => fail(
            STAGE,
            format!("{node} is reached, but {address} does not answer"),
            format!("the pod, its policy or that node's firewall drops pings, or it hangs; {list}"),
        ),
    }
}

/// What became of packets of the inner MTU.
#[derive(Debug, Clone, PartialEq)]
pub enum Large {
    /// They pass.
    Pass,
    /// Somebody tells that they are too long, and what would pass.
    Told(Ipv4Addr, u16),
    /// flanneld here found out what passes, and tells those who send more.
    Found(u32),
    /// They vanish; the largest that passes.
    Vanish(usize),
    /// This host does not send them.
    Refused(String),
}

/// Packets as large as the pods may send. `overhead` is what the tunnel puts before them.
pub fn size(mtu: u32, overhead: u32, large: &Large) -> Finding {
    const STAGE: &str = "size";
    let lower =
        "lower the MTU of the interface between the hosts on all nodes and restart flanneld and the pods";
    match large {
        Large::Pass => ok(STAGE, format!("packets of {mtu} bytes, the largest that pods send, pass")),
        Large::Told(from, passes) => unsure(
            STAGE,
            format!(
                "packets of {mtu} bytes do not fit: {from} says that {passes} do; senders that heed it go on with less"
            ),
            lower,
        ),
        Large::Found(passes) => unsure(
            STAGE,
            format!(
                "packets of {mtu} bytes do not fit: flanneld has found that {passes} pass, and tells pods that send more; TCP starts with less"
            ),
            format!(
                "something between the hosts takes no more than {} bytes on the wire; nothing has to be done, but to spare pods this, {lower}",
                passes + overhead
            ),
        ),
        Large::Vanish(largest) => fail(
            STAGE,
            format!(
                "a black hole for large packets: {mtu} bytes vanish and nobody tells, {largest} pass \
                 (on the wire between the hosts: {} vanish, {} pass)",
                mtu + overhead,
                largest + overhead as usize
            ),
            format!("something between the hosts drops them: {lower}, or let the larger ones pass there"),
        ),
        Large::Refused(error) => fail(
            STAGE,
            format!("this host does not send {mtu} bytes: {error}"),
            "its device has a smaller MTU than flanneld says",
        ),
    }
}

/// As ping writes it.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
