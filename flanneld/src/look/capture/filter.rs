//! Which packets are wanted: in the kernel all of the tunnel on one interface, here the chosen flows. Pure.

use std::net::{IpAddr, Ipv4Addr};

use socket2::SockFilter;

use super::decode::View;
use super::stripped::{Outer, Stripped};

/// What was chosen; what is empty takes all.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The other host.
    pub peers: Vec<Ipv4Addr>,
    /// Either end of the inner packet.
    pub hosts: Vec<IpAddr>,
    /// Either port of the inner packet.
    pub ports: Vec<u16>,
    /// The protocol of the inner packet.
    pub protocol: Option<u8>,
}

impl Wanted {
    /// Whether a packet is wanted; one that is no IP packet is if nothing is asked of inner packets.
    pub fn takes(&self, outer: &Outer, inner: Option<&View<'_>>) -> bool {
        if !self.peers.is_empty() && !self.peers.iter().any(|ip| outer.is_of(*ip)) {
            return false;
        }
        let Some(inner) = inner else {
            return self.hosts.is_empty() && self.ports.is_empty() && self.protocol.is_none();
        };
        let host = |ip: &IpAddr| inner.source == *ip || inner.destination == *ip;
        let port = |port: &u16| inner.ports.is_some_and(|(from, to)| from == *port || to == *port);
        (self.hosts.is_empty() || self.hosts.iter().any(host))
            && (self.ports.is_empty() || self.ports.iter().any(port))
            && self.protocol.is_none_or(|protocol| inner.protocol == protocol)
    }
}

/// The filter that the kernel runs (classic BPF, see `Documentation/networking/filter.rst`): IPv4 and UDP of this port on this interface,
/// no later fragments, and what comes in stripped. `link` is the length of the header before IP's.
pub fn program(interface: u32, port: u16, link: u32, stripped: Option<Stripped>) -> Vec<SockFilter> {
    /// Where the kernel's own fields of a packet begin.
    const ANCILLARY: u32 = libc::SKF_AD_OFF as u32;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const LOAD_HALF_BEHIND: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
    const HEADER_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let of_pods = |Stripped { network, own }: Stripped| {
        [
            (LOAD_WORD, 0, 0, ANCILLARY.wrapping_add(libc::SKF_AD_PKTTYPE as u32)),
            (EQUAL, 6, 0, u32::from(libc::PACKET_OUTGOING)),
            (LOAD_WORD, 0, 0, link + 12),
            (AND, 0, 0, u32::from(network.mask())),
            (EQUAL, 0, 3, u32::from(network.network())),
            (LOAD_WORD, 0, 0, link + 16),
            (AND, 0, 0, u32::from(own.mask())),
            (EQUAL, 10, 0, u32::from(own.network())),
        ]
    };
    let of_pods: Vec<_> = stripped.into_iter().flat_map(of_pods).collect();
    let more = of_pods.len() as u8;
    let right_interface = [
        (LOAD_WORD, 0, 0, ANCILLARY.wrapping_add(libc::SKF_AD_IFINDEX as u32)),
        (EQUAL, 0, 11 + more, interface),
        (LOAD_WORD, 0, 0, ANCILLARY.wrapping_add(libc::SKF_AD_PROTOCOL as u32)),
        (EQUAL, 0, 9 + more, libc::ETH_P_IP as u32),
    ];
    let of_the_tunnel = [
        (LOAD_BYTE, 0, 0, link + 9),
        (EQUAL, 0, 7, libc::IPPROTO_UDP as u32),
        (LOAD_HALF, 0, 0, link + 6),
        (ANY_BIT, 5, 0, 0x1fff),
        (HEADER_LENGTH, 0, 0, link),
        (LOAD_HALF_BEHIND, 0, 0, link),
        (EQUAL, 3, 0, u32::from(port)),
        (LOAD_HALF_BEHIND, 0, 0, link + 2),
        (EQUAL, 1, 0, u32::from(port)),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, u32::MAX),
    ];
    let steps = right_interface.into_iter().chain(of_pods).chain(of_the_tunnel);
    steps.map(|(code, then, or, k)| SockFilter::new(code, then, or, k)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::decode::view;
    use super::*;
    use crate::datapath::packet::testing::Flow;

    #[test]
    fn flows_are_chosen_by_peer_address_port_and_protocol() {
        let packet = Flow::tcp().packet(b"");
        let (from, to) = ("192.0.2.1:8285".parse().unwrap(), "192.0.2.2:8285".parse().unwrap());
        let outer = Outer::Datagram { from, to };
        let takes = |edit: &dyn Fn(&mut Wanted)| {
            let mut wanted = Wanted::default();
            edit(&mut wanted);
            wanted.takes(&outer, view(&packet).as_ref())
        };
        assert!(takes(&|_| {}));
        for (peer, expected) in [([192, 0, 2, 1], true), ([192, 0, 2, 2], true), ([192, 0, 2, 3], false)] {
            assert_eq!(takes(&|w| w.peers = vec![peer.into()]), expected);
        }
        for (host, expected) in [([10, 5, 1, 2], true), ([10, 5, 2, 2], true), ([10, 5, 2, 3], false)] {
            assert_eq!(takes(&|w| w.hosts = vec![host.into()]), expected);
        }
        for (port, expected) in [(80, true), (40_000, true), (81, false), (0, false)] {
            assert_eq!(takes(&|w| w.ports = vec![82, port]), expected);
        }
        assert!(takes(&|w| w.protocol = Some(6)) && !takes(&|w| w.protocol = Some(17)));
        assert!(
            !takes(&|w| (w.hosts, w.ports) = (vec![[10, 5, 1, 2].into()], vec![81])),
            "all that is asked"
        );
        assert!(Wanted::default().takes(&outer, None));
        assert!(!Wanted { ports: vec![80], ..Wanted::default() }.takes(&outer, None));
    }
}
