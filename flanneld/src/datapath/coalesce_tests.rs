use super::super::packet::testing::{Flow, packet};
use super::super::split::Segments;
use super::*;
use proptest::prelude::*;

/// What is handed on for these packets, and for each how many went into it.
fn coalesce(packets: &[Vec<u8>], joined: Joined) -> Vec<(usize, Header, Vec<u8>)> {
    let bytes = packets.concat();
    let mut runs = Runs::new(joined);
    let mut at = 0;
    for packet in packets {
        assert!(!runs.is_full());
        runs.push(&bytes, at..at + packet.len());
        at += packet.len();
    }
    let handed_on = |run: &Run| {
        let mut out = [0; virtio::LEN + MAX_HEADER];
        let length = runs.header(&bytes, run, &mut out);
        let virtio = Header::parse(*out.first_chunk().unwrap()).unwrap();
        let mut packet = out[virtio::LEN..length].to_vec();
        for part in runs.parts(run) {
            let from = if run.count > 1 { part.payload() } else { part.packet.clone() };
            packet.extend(&bytes[from]);
        }
        (run.count, virtio, packet)
    };
    runs.iter().map(handed_on).collect()
}

fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    coalesce(packets, Joined::TcpUdp).into_iter().map(|(count, ..)| count).collect()
}

fn split(handed_on: &[(usize, Header, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (_, virtio, packet) in handed_on {
        let Some(gso) = virtio.gso else {
            all.push(packet.clone());
            continue;
        };
        let mut segments = Segments::new(packet, gso).unwrap();
        let mut header = [0; MAX_HEADER];
        while let Some(segment) = segments.next(&mut header) {
            all.push([&header[..segment.header], &packet[segment.payload]].concat());
        }
    }
    all
}

fn next(flow: Flow, payload: usize) -> Flow {
    Flow { id: flow.id.wrapping_add(1), sequence: flow.sequence.wrapping_add(payload as u32), ..flow }
}

#[test]
fn a_burst_of_tcp_is_one_super_packet() {
    let first = Flow::tcp();
    let (second, third) = (next(first, 100), next(next(first, 100), 100));
    let packets =
        [first.packet(&[1; 100]), second.packet(&[2; 100]), Flow { flags: 0x18, ..third }.packet(&[3; 40])];
    let handed_on = coalesce(&packets, Joined::Tcp);
    let [(3, virtio, whole)] = &handed_on[..] else { panic!("{handed_on:?}") };
    assert_eq!(virtio.gso, Some(Gso { kind: Kind::Tcp4, size: 100 }));
    assert_eq!((virtio.partial, virtio.header_len), (Some(Partial { start: 20, offset: 16 }), 52));
    // Its checksum is the kernel's to finish; then it is what the sender would have sent as one.
    let mut whole = whole.clone();
    checksum::complete(&mut whole, 20, 16).unwrap();
    assert_eq!(
        whole,
        Flow { flags: 0x18, ..first }.packet(&[vec![1; 100], vec![2; 100], vec![3; 40]].concat())
    );
    assert_eq!(split(&handed_on), packets);
}

#[test]
fn datagrams_of_one_length_are_one_super_packet() {
    for first in [Flow::udp(), Flow::udp().v6()] {
        let packets = [
            first.packet(&[1; 64]),
            next(first, 0).packet(&[2; 64]),
            next(next(first, 0), 0).packet(&[3; 63]),
            first.packet(&[4; 63]),
        ];
        let handed_on = coalesce(&packets, Joined::TcpUdp);
        assert_eq!(handed_on.iter().map(|h| h.0).collect::<Vec<_>>(), [3, 1], "a shorter one is the last");
        assert_eq!(split(&handed_on), packets);
        assert_eq!(coalesce(&packets, Joined::Tcp).len(), 4);
        assert_eq!(coalesce(&packets, Joined::Nothing).len(), 4);
    }
}

#[test]
fn what_says_something_new_is_not_joined() {
    let first = Flow::tcp();
    let follows = next(first, 100);
    let other = |second: Flow| counts(&[first.packet(&[1; 100]), second.packet(&[2; 100])]);
    assert_eq!(other(follows), [2]);
    for (what, second) in [
        ("a gap", Flow { sequence: follows.sequence + 1, ..follows }),
        ("a repetition", Flow { sequence: first.sequence, ..follows }),
        ("another port", Flow { port: 40_001, ..follows }),
        ("ECN", Flow { tos: 3, ..follows }),
        ("TTL", Flow { ttl: 62, ..follows }),
        ("DF", Flow { dont_fragment: false, ..follows }),
        ("an acknowledgement", Flow { acknowledged: 2, ..follows }),
        ("a window", Flow { window: 501, ..follows }),
        ("a timestamp", Flow { timestamp: Some(4), ..follows }),
        ("no timestamp", Flow { timestamp: None, ..follows }),
        ("SYN", Flow { flags: 0x12, ..follows }),
        ("RST", Flow { flags: 0x14, ..follows }),
        ("URG", Flow { flags: 0x30, ..follows }),
        ("ECE", Flow { flags: 0x50, ..follows }),
        ("CWR", Flow { flags: 0x90, ..follows }),
        ("UDP", Flow { protocol: 17, ..follows }),
        ("IPv6", follows.v6()),
    ] {
        assert_eq!(other(second), [1, 1], "{what}");
    }
    // More payload than the first one's, or none.
    assert_eq!(counts(&[first.packet(&[1; 100]), follows.packet(&[2; 101])]), [1, 1]);
    assert_eq!(counts(&[first.packet(&[1; 100]), follows.packet(b"")]), [1, 1]);
}

#[test]
fn an_identification_matters_only_where_packets_may_be_fragmented() {
    let first = Flow { dont_fragment: false, ..Flow::udp() };
    let joined = |second: Flow| counts(&[first.packet(&[1; 9]), second.packet(&[2; 9])]).len() == 1;
    assert!(joined(next(first, 0)) && !joined(first));
    let unfragmented = Flow::udp();
    assert_eq!(counts(&[unfragmented.packet(&[1; 9]), unfragmented.packet(&[2; 9])]), [2]);
}

#[test]
fn wrong_checksums_stay_as_they_are() {
    let flow = Flow::udp();
    let good = flow.packet(&[1; 50]);
    for at in [10, 27, 60] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        for packets in [[good.clone(), bad.clone()], [bad.clone(), good.clone()]] {
            assert_eq!(split(&coalesce(&packets, Joined::TcpUdp)), packets);
            assert_eq!(counts(&packets), [1, 1], "byte {at}");
        }
    }
    let mut unsummed = good.clone();
    unsummed[26..28].fill(0);
    assert_eq!(counts(&[unsummed.clone(), unsummed]), [1, 1], "without a checksum there is nothing to check");
}

#[test]
fn a_run_has_an_end() {
    let flow = Flow::udp();
    let packets = vec![flow.packet(&[1; 1000]); 130];
    assert_eq!(counts(&packets), [64, 64, 2]);
    let packets = vec![flow.packet(&[1; 1400]); 50];
    assert_eq!(counts(&packets), [46, 4], "no longer than an IP packet can be");
    let (first, pushed) = (Flow::tcp(), Flow { flags: 0x18, ..next(Flow::tcp(), 10) });
    let packets = [first.packet(&[1; 10]), pushed.packet(&[2; 10]), next(first, 20).packet(&[3; 10])];
    assert_eq!(counts(&packets), [2, 1], "PSH ends it");
}

#[test]
fn only_the_newest_run_of_a_flow_grows() {
    let (a, b) = (Flow::tcp(), Flow { port: 50_000, ..Flow::tcp() });
    let ack = Flow { acknowledged: 2, ..next(a, 10) };
    let packets = [
        a.packet(&[1; 10]),
        b.packet(&[2; 10]),
        ack.packet(b""),
        Flow { acknowledged: 1, ..next(a, 10) }.packet(&[3; 10]),
        next(b, 10).packet(&[4; 10]),
    ];
    assert_eq!(counts(&packets), [1, 2, 1, 1], "the fourth would have overtaken the third");
    let mut fragment = packet([10, 5, 1, 2], [10, 5, 2, 2], 17, 63, &[0; 40]);
    fragment[6] = 0x20;
    let flow = Flow::udp();
    let packets = [flow.packet(&[1; 9]), fragment, flow.packet(&[2; 9])];
    assert_eq!(counts(&packets), [1, 1, 1], "whose fragment it is cannot be told");
}

/// Packets of a few flows, mostly in sequence, so that there is something to join.
fn traffic() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = (0usize..4, 0usize..4, 0u8..20, prop::sample::select(vec![0usize, 1, 50, 50, 50, 50, 1400]));
    prop::collection::vec(one, 1..200).prop_map(|choices| {
        let base = [Flow::tcp(), Flow { port: 9, ..Flow::tcp() }.v6(), Flow::udp(), Flow::udp().v6()];
        let mut flows = base.map(|flow| Flow { dont_fragment: false, ..flow });
        let packet = |(index, fill, event, length): (usize, usize, u8, usize)| {
            let flow = &mut flows[index];
            match event {
                0 => flow.acknowledged += 1,
                1 => flow.sequence = flow.sequence.wrapping_add(1),
                2 => flow.id = flow.id.wrapping_add(9),
                _ => {}
            }
            let flags = if event == 3 { 0x18 } else { 0x10 };
            let mut packet = Flow { flags, ..*flow }.packet(&vec![fill as u8; length]);
            *flow = next(*flow, length);
            if event == 4 {
                let last = packet.len() - 1;
                packet[last] ^= 0xff;
            }
            packet
        };
        choices.into_iter().map(packet).collect()
    })
}

/// The packets of each flow, by protocol, version and ports.
fn by_flow(packets: &[Vec<u8>]) -> std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> = std::collections::BTreeMap::new();
    for packet in packets {
        let layers = Layers::parse(packet).unwrap();
        flows
            .entry([&[packet[0], layers.protocol], layers.ports(packet)].concat())
            .or_default()
            .push(packet.clone());
    }
    flows
}

proptest! {
    #[test]
    fn splitting_brings_back_what_was_joined_in_its_order(packets in traffic()) {
        let handed_on = coalesce(&packets, Joined::TcpUdp);
        prop_assert_eq!(handed_on.iter().map(|h| h.0).sum::<usize>(), packets.len());
        prop_assert_eq!(by_flow(&split(&handed_on)), by_flow(&packets));
    }

    #[test]
    fn no_bytes_make_it_panic(mut packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..20)) {
        for packet in &mut packets {
            // Lengths that are believed, so that it gets further.
            let length = packet.len() as u16;
            if packet.len() > 20 {
                packet[0] = 0x40 | (packet[0] & 7);
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                packet[6..8].fill(0);
                packet[9] = if packet[9] & 1 == 0 { 6 } else { 17 };
            }
        }
        prop_assert_eq!(split(&coalesce(&packets, Joined::TcpUdp)), packets);
    }
}
