//! What the kernel's fast path takes in: its program in the driver takes the outer headers off before a capture sees the frame, so that the
//! inner packet stands there bare. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::datapath::path::Feature;
use crate::look::status::Status;

const ETHERNET: usize = 14;

/// What an inner packet travelled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outer {
    /// A datagram that was seen.
    Datagram {
        /// Who sent it.
        from: SocketAddrV4,
        /// To whom.
        to: SocketAddrV4,
    },
    /// A datagram whose headers were taken off before. The program let it through, so that it came from the host whose lease covers the
    /// packet's source.
    Stripped {
        /// That host.
        from: Option<Ipv4Addr>,
    },
}

impl Outer {
    /// Whether a host sent it or was to get it. What was stripped came to this host, which `--peer` does not mean.
    pub fn is_of(&self, host: Ipv4Addr) -> bool {
        match self {
            Outer::Datagram { from, to } => *from.ip() == host || *to.ip() == host,
            Outer::Stripped { from } => *from == Some(host),
        }
    }
}

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outer::Datagram { from, to } => {
                write!(f, "{}.{} > {}.{}", from.ip(), from.port(), to.ip(), to.port())
            }
            Outer::Stripped { from: Some(from) } => write!(f, "fast path from {from}"),
            Outer::Stripped { from: None } => write!(f, "no lease, in clear"),
        }
    }
}

/// Which packets these are: those that come in from pods of other nodes to the own ones. Somebody's who sends such packets in clear look
/// the same here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripped {
    /// All pods.
    pub network: Ipv4Network,
    /// The own ones.
    pub own: Ipv4Network,
}

impl Stripped {
    /// If the fast path takes packets in.
    pub fn of(status: &Status) -> Option<Stripped> {
        let v4 = |all: &[IpNetwork]| {
            all.iter().find_map(|net| if let IpNetwork::V4(net) = net { Some(*net) } else { None })
        };
        status.path.features.get(&format!("{:?}", Feature::FastIn)).filter(|used| **used)?;
        let network = v4(&status.network.as_ref()?.networks)?;
        Some(Stripped { network, own: v4(&status.lease.as_ref()?.subnets)? })
    }

    /// The packet of a frame that came in, if it is one of them, and its source. The fast path is there for Ethernet only.
    pub fn packet<'a>(&self, frame: &'a [u8]) -> Option<(Ipv4Addr, &'a [u8])> {
        let packet = frame.get(ETHERNET..)?;
        let header = packet.first_chunk::<20>()?;
        let ip = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let end = if total >= header.len() { total.min(packet.len()) } else { packet.len() };
        let ours = header[0] >> 4 == 4 && self.network.contains(ip(12)) && self.own.contains(ip(16));
        ours.then(|| (ip(12), &packet[..end]))
    }
}

/// The host whose lease covers an address, by IPv4.
pub fn holder(status: &Status, ip: Ipv4Addr) -> Option<Ipv4Addr> {
    let (peer, _) = status.peer_of(IpAddr::V4(ip))?;
    peer.public_ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::testing::packet;
    use crate::look::status::{Network, Own, PathState, Peer};

    fn status(fast: bool) -> Status {
        Status {
            network: Some(Network {
                networks: vec!["10.5.0.0/16".parse().unwrap()],
                backend: "udp".into(),
                port: Some(8285),
                device: None,
                mtu: 1472,
            }),
            lease: Some(Own {
                subnets: vec!["10.5.1.0/24".parse().unwrap()],
                reserved: false,
                age: 1.0,
                renewed: 1.0,
                ends_in: None,
                safe_for: None,
            }),
            path: PathState { queues: 1, features: [("FastIn".to_owned(), fast)].into() },
            peers: vec![Peer {
                public_ips: vec![[192, 0, 2, 2].into()],
                subnets: vec!["10.5.2.0/24".parse().unwrap()],
                traffic: None,
            }],
            ..Status::default()
        }
    }

    #[test]
    fn only_what_comes_in_for_own_pods_is_the_fast_paths() {
        assert_eq!(Stripped::of(&status(false)), None);
        let stripped = Stripped::of(&status(true)).unwrap();
        let frame = |from, to| [&[2; 14], &packet(from, to, 17, 63, b"x")[..], &[0; 9]].concat();
        let (mine, theirs) = ([10, 5, 1, 2], [10, 5, 2, 2]);
        let came = frame(theirs, mine);
        assert_eq!(stripped.packet(&came), Some((theirs.into(), &came[14..35])), "without padding");
        for (from, to) in [(mine, theirs), ([192, 0, 2, 2], mine), (theirs, [192, 0, 2, 1])] {
            assert_eq!(stripped.packet(&frame(from, to)), None, "{from:?} {to:?}");
        }
        for length in 0..34 {
            assert_eq!(stripped.packet(&came[..length]), None);
        }
        assert_eq!(holder(&status(true), theirs.into()), Some([192, 0, 2, 2].into()));
        assert_eq!(holder(&status(true), [10, 5, 3, 2].into()), None);
    }

    #[test]
    fn it_is_told_what_was_seen_and_what_was_not() {
        let datagram = Outer::Datagram {
            from: "192.0.2.2:8285".parse().unwrap(),
            to: "192.0.2.1:8285".parse().unwrap(),
        };
        let stripped = |from| Outer::Stripped { from };
        let peer = Ipv4Addr::new(192, 0, 2, 2);
        for (outer, text, of_peer) in [
            (datagram, "192.0.2.2.8285 > 192.0.2.1.8285", true),
            (stripped(Some(peer)), "fast path from 192.0.2.2", true),
            (stripped(None), "no lease, in clear", false),
        ] {
            assert_eq!((outer.to_string().as_str(), outer.is_of(peer)), (text, of_peer));
        }
    }
}
