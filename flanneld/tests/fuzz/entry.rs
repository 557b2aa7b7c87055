//! The entry points: bytes in, and a panic if a rule is broken. `cargo fuzz` targets and the test call the same functions.

#[path = "narrow.rs"]
pub mod narrow;
#[path = "sealed.rs"]
pub mod sealed;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use flanneld::config::network::NetworkConfig;
use flanneld::datapath::checksum;
use flanneld::datapath::coalesce::{Joined, MOST_PACKETS, Run, Runs};
use flanneld::datapath::forward::{Onward, Verdict, inbound, outbound};
use flanneld::datapath::layers::MAX_HEADER;
use flanneld::datapath::split::Segments;
use flanneld::datapath::virtio::{self, Header};
use flanneld::family::Dual;
use flanneld::lease::follow::Follower;
use flanneld::lease::key::{Lease, decode_key, encode_key};
use flanneld::lease::store::{Event, Record};
use flanneld::route::Table;
use flanneld::route::traffic::Ledger;

/// A target's name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("packet", packet),
    ("super_packet", super_packet),
    ("flow", flow),
    ("lease", lease),
    ("config", config),
    ("sealed", sealed::sealed),
    ("narrow", narrow::narrow),
    ("icmp", narrow::icmp),
];

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 8285);

/// The beginnings of addresses: of pods here, and of those of the peer.
const HERE: [&[u8]; 2] = [&[10, 5, 1], &[0xfc, 0, 0, 0, 0, 0, 0, 1]];
const THERE: [&[u8]; 2] = [&[10, 5, 2], &[0xfc, 0, 0, 0, 0, 0, 0, 2]];

fn table() -> Table {
    let own = Dual { v4: "10.5.1.0/24".parse().ok(), v6: "fc00:0:0:1::/64".parse().ok() };
    let peers = ["10.5.2.0/24", "fc00:0:0:2::/64"].map(|net| (net.parse().unwrap(), PEER));
    Table::counted(own, peers, &Ledger::default())
}

/// The beginnings of a packet's addresses, source and destination, and of those here and there of its family.
fn ends(packet: &[u8]) -> ([&[u8]; 2], [&[u8]; 2]) {
    match packet[0] >> 4 {
        6 => ([&packet[8..16], &packet[24..32]], [HERE[1], THERE[1]]),
        _ => ([&packet[12..15], &packet[16..19]], [HERE[0], THERE[0]]),
    }
}

/// One packet through both directions: what goes on has lost one hop, still has a right checksum, and its length.
pub fn packet(data: &[u8]) {
    thread_local!(static TABLE: Table = table());
    TABLE.with(|table| {
        let mut out = data.to_vec();
        if let Verdict::Send(Onward { to, .. }) = outbound(&mut out, &Header::default(), table) {
            let ([_, destination], [_, there]) = ends(data);
            assert_eq!((to.at, destination), (PEER, there));
            one_hop_less(data, &out);
        }
        let mut into = data.to_vec();
        if inbound(&mut into, PEER, 0, table).is_ok() {
            let ([source, destination], [here, there]) = ends(data);
            assert_eq!((source, destination), (there, here));
            one_hop_less(data, &into);
        }
    });
}

fn one_hop_less(before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len());
    if before[0] >> 4 == 6 {
        assert_eq!((after[7] + 1, &after[..7], &after[8..]), (before[7], &before[..7], &before[8..]));
        return;
    }
    assert_eq!(after[8] + 1, before[8], "one hop less");
    let header = ..usize::from(after[0] & 15) * 4;
    // A wrong checksum stays wrong: the receiver must see it.
    assert_eq!(checksum::of(&after[header]) == 0, checksum::of(&before[header]) == 0, "its checksum");
}

/// What the TUN hands over: the kernel's header and a packet behind it. Its segments are no longer than it, and cover its payload.
pub fn super_packet(data: &[u8]) {
    let Some((begin, packet)) = data.split_first_chunk::<{ virtio::LEN }>() else { return };
    let Ok(header) = Header::parse(*begin) else { return };
    assert_eq!(Header::parse(header.emit()), Ok(header));
    let Some(gso) = header.gso else { return };
    let Ok(mut segments) = Segments::new(packet, gso) else { return };
    let (mut out, mut end, mut count) = ([0; MAX_HEADER], None, 0);
    while let Some(segment) = segments.next(&mut out) {
        assert!(
            segment.payload.end <= packet.len() && segment.header + segment.payload.len() <= packet.len()
        );
        assert!(end.is_none_or(|end| end == segment.payload.start), "without a gap");
        end = Some(segment.payload.end);
        count += 1;
        assert!(count <= packet.len());
    }
    assert_eq!(end, Some(packet.len()));
}

/// Packets of a few flows, built from the bytes: what is joined and split again is what it was.
pub fn flow(data: &[u8]) {
    let mut flows = [(0, 0); 4];
    let packets: Vec<Vec<u8>> =
        data.chunks_exact(4).take(MOST_PACKETS).map(|recipe| built(recipe, &mut flows)).collect();
    for joined in [Joined::Tcp, Joined::TcpUdp] {
        let (bytes, mut runs) = (packets.concat(), Runs::new(joined));
        let mut at = 0;
        for packet in &packets {
            runs.push(&bytes, at..at + packet.len());
            at += packet.len();
        }
        let mut total = 0;
        for run in runs.iter() {
            let parts: Vec<&[u8]> = runs.parts(run).map(|part| &bytes[part.packet.clone()]).collect();
            total += parts.len();
            if run.count > 1 {
                let back: Vec<Vec<u8>> = split(&bytes, &runs, run).into_iter().map(told).collect();
                let parts: Vec<Vec<u8>> = parts.into_iter().map(|part| told(part.to_vec())).collect();
                assert_eq!(back, parts, "a run's packets come back, in order");
            }
        }
        assert_eq!(total, packets.len(), "none is lost, none is twice");
    }
}

/// A packet without what means nothing: the identification of one that may not be fragmented (RFC 6864 section 4.1).
fn told(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[6] & 0x40 != 0 {
        assert_eq!(checksum::of(&packet[..20]), 0, "only right packets are joined");
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

fn split(bytes: &[u8], runs: &Runs, run: &Run) -> Vec<Vec<u8>> {
    let mut out = [0; virtio::LEN + MAX_HEADER];
    let length = runs.header(bytes, run, &mut out);
    let gso = Header::parse(*out.first_chunk().unwrap()).unwrap().gso.expect("several are a super-packet");
    let mut whole = out[virtio::LEN..length].to_vec();
    runs.parts(run).for_each(|part| whole.extend(&bytes[part.payload()]));
    let (mut segments, mut header, mut all) =
        (Segments::new(&whole, gso).unwrap(), [0; MAX_HEADER], Vec::new());
    while let Some(segment) = segments.next(&mut header) {
        all.push([&header[..segment.header], &whole[segment.payload]].concat());
    }
    all
}

/// Four bytes make a packet: its flow and kind, its length, what is unusual about it, and where a bit is turned.
fn built(recipe: &[u8], flows: &mut [(u32, u16); 4]) -> Vec<u8> {
    let [kind, length, odd, place] = [recipe[0], recipe[1], recipe[2], recipe[3]];
    let (tcp, port) = (kind & 1 == 0, kind >> 1 & 3);
    let payload = usize::from(length >> 5) * 100;
    let (sequence, id) = &mut flows[usize::from(port)];
    *id = id.wrapping_add(1);
    let mut transport = vec![0x9c, port, 0, 80];
    if tcp {
        transport.extend(sequence.to_be_bytes());
        transport.extend([0, 0, 0, 1, 0x50, if odd & 7 == 1 { 0x18 } else { 0x10 }, 1, 0, 0, 0, 0, 0]);
        *sequence = sequence.wrapping_add(payload as u32);
    } else {
        transport.extend([((payload + 8) >> 8) as u8, (payload + 8) as u8, 0, 0]);
    }
    transport.extend(std::iter::repeat_n(length, payload));
    let total = (20 + transport.len()) as u16;
    let mut bytes =
        [[0x45, 0], total.to_be_bytes(), id.to_be_bytes(), [if kind & 8 == 0 { 0x40 } else { 0 }, 0]]
            .concat();
    bytes.extend([
        if odd & 56 == 8 { 9 } else { 64 },
        if tcp { 6 } else { 17 },
        0,
        0,
        10,
        5,
        2,
        1,
        10,
        5,
        1,
        1,
    ]);
    let sum = checksum::of(&bytes).to_be_bytes();
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend(&transport);
    let offset = if tcp { 16 } else { 6 };
    let pseudo = checksum::pseudo(&bytes[12..20], bytes[9], transport.len()).to_be_bytes();
    bytes[20 + offset..22 + offset].copy_from_slice(&pseudo);
    checksum::complete(&mut bytes, 20, offset).unwrap();
    if odd & 192 == 64 {
        let at = usize::from(place) % bytes.len();
        bytes[at] ^= 1 << (odd & 7);
    }
    bytes
}

/// A record, key and value: no panic, a key that is read is written the same, and it changes nobody else's lease.
pub fn lease(data: &[u8]) {
    let (key, value) = data
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or((data, &b""[..]), |end| (&data[..end], &data[end + 1..]));
    let key = String::from_utf8_lossy(key).into_owned();
    if let Ok(subnets) = decode_key(&key) {
        assert_eq!(encode_key(&subnets), key);
    }
    if let Ok(lease) = Lease::decode(&key, value) {
        assert!(lease.public.values().all(|ip| !ip.is_loopback() && !ip.is_multicast()));
    }
    for network in [
        r#"{"Network":"10.5.0.0/16"}"#,
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan"}}"#,
    ] {
        foreign_record(network, &key, value);
    }
}

/// A record beside a good one.
fn foreign_record(network: &str, key: &str, value: &[u8]) {
    let mut follower = Follower::new(NetworkConfig::parse(network).unwrap());
    let good = |key: &str| Record {
        key: key.to_owned(),
        value: br#"{"PublicIP":"192.0.2.9"}"#.to_vec(),
        create_revision: 1,
        mod_revision: 1,
        lease_id: 1,
    };
    follower.replace(&[good("10.5.9.0-24")]);
    if key != "10.5.9.0-24" {
        follower.apply(&Event::Put(Record {
            key: key.to_owned(),
            value: value.to_vec(),
            create_revision: 2,
            mod_revision: 2,
            lease_id: 1,
        }));
        follower.apply(&Event::Delete(key.to_owned()));
        assert_eq!(follower.leases().count(), 1, "a foreign record costs nobody his lease");
    }
}

/// A network's configuration: what is taken is consistent.
pub fn config(data: &[u8]) {
    let Ok(config) = NetworkConfig::parse(&String::from_utf8_lossy(data)) else { return };
    assert!(!config.pools.is_empty());
    for (family, pool) in config.pools.iter() {
        assert!(pool.subnet_min <= pool.subnet_max && pool.subnet_len + 2 <= family.bits());
        assert!(pool.network.contains(pool.subnet_min) && pool.network.contains(pool.subnet_max));
    }
}
