//! Ways that are narrower than the interface: packets that are fragmented or refused, SYNs that are lowered, and ICMP messages that
//! anybody may have sent.

use flanneld::datapath::checksum;
use flanneld::datapath::forward::{Onward, Verdict, outbound};
use flanneld::datapath::fragment::Fragments;
use flanneld::datapath::icmp::{Why, unreachable};
use flanneld::datapath::icmp6;
use flanneld::datapath::layers::{Layers, MAX_HEADER};
use flanneld::datapath::packet::Packet;
use flanneld::datapath::packet6::{self, Packet6};
use flanneld::datapath::virtio::Header;
use flanneld::path_mtu::message::{Heard, heard};
use flanneld::path_mtu::search::LEAST;

/// A byte for how narrow the way is, and a packet: it goes on whole, or in fragments that give it, or its sender is told.
pub fn narrow(data: &[u8]) {
    let Some((narrow, data)) = data.split_first() else { return };
    let (table, limit) = (super::table(), 68 + usize::from(*narrow));
    let hop = table.lookup(std::net::Ipv4Addr::new(10, 5, 2, 2)).unwrap();
    table.way(hop).unwrap().set_limit(Some(limit as u32));
    let mut packet = data.to_vec();
    match outbound(&mut packet, &Header::default(), &table) {
        Verdict::Send(Onward { within: None, .. }) => {
            assert!(packet.len() == data.len() && packet.len() <= limit);
            assert_eq!(is_right(&packet), is_right(data), "a lowered SYN keeps its checksum");
        }
        Verdict::Send(Onward { within, .. }) => {
            assert_eq!((within, packet.len() > limit), (Some(limit), true));
            fragments(&packet, limit);
        }
        Verdict::TooLong(mtu) => {
            assert!(mtu == limit && data.len() > limit && packet == data);
            answered(&mut packet, Why::TooLong(mtu));
        }
        Verdict::Drop(_) | Verdict::Refuse => {}
    }
}

fn answered(packet: &mut [u8], why: Why) {
    let mut answer = [0; icmp6::MAX_ANSWER];
    if packet6::is(packet) {
        let (packet, own) = (Packet6::parse(packet).unwrap(), [0xfc; 16].into());
        if let Some(length) = icmp6::unreachable(&packet, why, own, &mut answer) {
            let pseudo = checksum::pseudo(&answer[8..40], packet6::ICMPV6, length - packet6::HEADER);
            assert_eq!(checksum::add(pseudo, checksum::sum(&answer[40..length])), 0xffff);
        }
        return;
    }
    let (packet, own) = (Packet::parse(packet).unwrap(), [10, 5, 1, 0].into());
    if let Some(length) = unreachable(&packet, why, own, &mut answer) {
        assert_eq!(checksum::of(&answer[20..length]), 0);
    }
}

fn is_right(packet: &[u8]) -> Option<bool> {
    let layers = Layers::parse(packet)?;
    let transport = &packet[layers.network..];
    let pseudo = checksum::pseudo(layers.addresses(packet), layers.protocol, transport.len());
    Some(checksum::add(pseudo, checksum::sum(transport)) == 0xffff)
}

fn fragments(packet: &[u8], limit: usize) {
    let network = usize::from(packet[0] & 15) * 4;
    let Some(mut parts) = Fragments::new(&packet[..network], network..packet.len(), limit) else {
        assert!(network + 8 > limit, "there is room");
        return;
    };
    let (mut header, mut payload) = ([0; MAX_HEADER], Vec::<u8>::new());
    let offset = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff) * 8;
    while let Some(part) = parts.next(&mut header) {
        let end = part.header + part.payload.len();
        assert!(end <= limit && checksum::of(&header[..part.header]) == 0);
        // One that begins far behind comes around, and its receiver throws it away.
        assert_eq!(offset(&header), (offset(packet) + payload.len()) & 0xffff);
        payload.extend(&packet[part.payload]);
    }
    assert_eq!(payload, packet[network..]);
}

/// What a raw ICMP socket gives: no panic, and what is told is of some use.
pub fn icmp(data: &[u8]) {
    match heard(data) {
        Some(Heard::Answer(question)) => assert_eq!(question.size as usize, data.len()),
        Some(Heard::TooLong { mtu, .. }) => assert!(mtu < 65_535 && LEAST < 65_535),
        None => {}
    }
}
