//! Nodes in memory: what one seals the other opens, and nothing else.

use super::peer::MOST_WAITING;
use super::*;

type Bytes = Vec<u8>;

const A: usize = 0;
const B: usize = 1;

fn name(n: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8 + 1], 51820))
}

/// A node, and what it wants to send in answer.
struct Node {
    wireguard: Arc<Wireguard>,
    sealer: Sealer,
    opener: Opener,
}

#[derive(Default)]
struct Sent(Vec<Vec<u8>>);

impl opener::Answer for Sent {
    fn handshake(&mut self, message: &[u8], _: SocketAddr) {
        self.0.push(message.to_vec());
    }
    fn packet(&mut self, sealed: &[u8], _: SocketAddr) {
        self.0.push(sealed.to_vec());
    }
}

impl Node {
    fn new(n: usize, preshared: Option<&str>) -> Node {
        let identity = Identity::from_bytes([n as u8 + 7; KEY_LEN]);
        let preshared = preshared.map(|text| text.parse().unwrap());
        let wireguard = Arc::new(Wireguard::new(identity, preshared, 0));
        let sealer = Sealer::new(&wireguard, 1420);
        Node { opener: Opener::new(wireguard.clone(), 1 << 16), sealer, wireguard }
    }

    fn seal(&mut self, to: usize, packet: &[u8]) -> Result<(bool, Option<Vec<u8>>), Reason> {
        self.sealer.clear();
        Ok(match self.sealer.seal(name(to), &packet[..20], &packet[20..])? {
            Sealed::Packet(_, at) => (true, Some(self.sealer.bytes()[at].to_vec())),
            Sealed::Handshake(_, at) => (false, Some(self.sealer.bytes()[at].to_vec())),
            Sealed::Waits => (false, None),
        })
    }

    fn open(&mut self, from: usize, datagram: &[u8]) -> Result<(Option<Bytes>, Vec<Bytes>), Reason> {
        let mut sent = Sent::default();
        let opened = self.opener.open(datagram, 0..datagram.len(), name(from), &mut sent)?;
        let packet = opened.map(|(sender, at)| {
            assert_eq!(sender, name(from));
            self.opener.packet(at).to_vec()
        });
        Ok((packet, sent.0))
    }
}

fn pair() -> [Node; 2] {
    let nodes = [Node::new(A, None), Node::new(B, None)];
    nodes[A].wireguard.publish([(name(B), nodes[B].wireguard.public())]);
    nodes[B].wireguard.publish([(name(A), nodes[A].wireguard.public())]);
    nodes
}

fn packet(text: &[u8]) -> Vec<u8> {
    crate::datapath::packet::testing::packet([10, 5, 1, 2], [10, 5, 2, 2], 17, 64, text)
}

/// Carries messages to and fro until nobody has anything to say; the packets that arrive at the second.
fn converse([a, b]: &mut [Node; 2], first: Vec<u8>) -> Vec<Vec<u8>> {
    let (mut to_b, mut arrived) = (vec![first], Vec::new());
    while !to_b.is_empty() {
        let mut to_a = Vec::new();
        for message in to_b.drain(..) {
            let (packet, answers) = b.open(A, &message).unwrap();
            arrived.extend(packet);
            to_a.extend(answers);
        }
        for message in to_a {
            to_b.extend(a.open(B, &message).unwrap().1);
        }
    }
    arrived
}

/// With a session.
fn connected() -> [Node; 2] {
    let mut nodes = pair();
    let (sealed, call) = nodes[A].seal(B, &packet(b"first")).unwrap();
    assert!(!sealed, "no session yet");
    assert_eq!(converse(&mut nodes, call.unwrap()), [packet(b"first")], "what waited arrives");
    nodes
}

#[test]
fn what_one_seals_the_other_opens() {
    let mut nodes = connected();
    for length in [0, 1, 15, 16, 17, 1380, 1392, 1400] {
        let plain = packet(&vec![b'm'; length]);
        let (sealed, datagram) = nodes[A].seal(B, &plain).unwrap();
        let datagram = datagram.unwrap();
        assert!(sealed && !datagram.windows(8).any(|part| part == b"mmmmmmmm"), "nothing in clear");
        assert_eq!(datagram.len(), plain.len().next_multiple_of(16).min(1420) + OVERHEAD);
        assert_eq!(nodes[B].open(A, &datagram).unwrap().0, Some(plain));
    }
    let (_, back) = nodes[B].seal(A, &packet(b"back")).unwrap();
    assert_eq!(nodes[A].open(B, &back.unwrap()).unwrap().0, Some(packet(b"back")));
}

#[test]
fn what_is_replayed_or_changed_is_dropped_for_its_reason() {
    let mut nodes = connected();
    let seal = |nodes: &mut [Node; 2]| nodes[A].seal(B, &packet(b"once")).unwrap().1.unwrap();
    let datagram = seal(&mut nodes);
    assert!(nodes[B].open(A, &datagram).unwrap().0.is_some());
    assert_eq!(nodes[B].open(A, &datagram), Err(Reason::Replayed));
    let good = seal(&mut nodes);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let expected: &[Reason] = match at {
            0..4 => &[Reason::Protocol],
            4 => &[Reason::Session],
            5..8 => &[Reason::Stranger],
            // Another counter is either too old or makes another nonce.
            8..16 => &[Reason::Forged, Reason::Replayed],
            _ => &[Reason::Forged],
        };
        let outcome = nodes[B].open(A, &bad).unwrap_err();
        assert!(expected.contains(&outcome), "byte {at}: {outcome:?}");
    }
    assert!(nodes[B].open(A, &good).unwrap().0.is_some(), "the right one is still taken");
    for length in [0, 1, 3, 31] {
        assert_eq!(nodes[B].open(A, &good[..length]), Err(Reason::Protocol));
    }
}

#[test]
fn a_stranger_is_not_heard() {
    let mut nodes = connected();
    let mut stranger = Node::new(5, None);
    stranger.wireguard.publish([(name(B), nodes[B].wireguard.public())]);
    let call = stranger.seal(B, &packet(b"let me in")).unwrap().1.unwrap();
    assert_eq!(nodes[B].open(5, &call), Err(Reason::Stranger), "a key that no lease has");
    let mut blind = Node::new(6, None);
    blind.wireguard.publish([(name(B), stranger.wireguard.public())]);
    let call = blind.seal(B, &packet(b"let me in")).unwrap().1.unwrap();
    assert_eq!(nodes[B].open(6, &call), Err(Reason::Forged), "made for another's key");
}

#[test]
fn the_shared_secret_counts() {
    let keys =
        ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI="];
    for (other, works) in [(keys[0], true), (keys[1], false)] {
        let mut nodes = [Node::new(A, Some(keys[0])), Node::new(B, Some(other))];
        nodes[A].wireguard.publish([(name(B), nodes[B].wireguard.public())]);
        nodes[B].wireguard.publish([(name(A), nodes[A].wireguard.public())]);
        let call = nodes[A].seal(B, &packet(b"x")).unwrap().1.unwrap();
        let answer = nodes[B].open(A, &call).unwrap().1.remove(0);
        assert_eq!(nodes[A].open(B, &answer).is_ok(), works);
    }
}

#[test]
fn what_waits_has_a_bound_and_is_counted_when_it_is_given_up() {
    let mut nodes = pair();
    let calls = (0..MOST_WAITING).filter(|_| nodes[A].seal(B, &packet(b"x")).unwrap().1.is_some()).count();
    assert_eq!(calls, 1, "one handshake for all of them");
    assert_eq!(nodes[A].seal(B, &packet(b"x")), Err(Reason::Session));
    assert_eq!(nodes[A].seal(5, &packet(b"x")), Err(Reason::NoRoute), "no such peer");
}

#[test]
fn a_node_may_move_and_may_change_its_key() {
    let mut nodes = connected();
    let key = nodes[A].wireguard.public();
    let datagram = nodes[A].seal(B, &packet(b"from elsewhere")).unwrap().1.unwrap();
    let mut sent = Sent::default();
    let (elsewhere, whole) = (SocketAddr::from(([198, 51, 100, 9], 999)), 0..datagram.len());
    let (sender, _) = nodes[B].opener.open(&datagram, whole, elsewhere, &mut sent).unwrap().unwrap();
    assert_eq!(sender, name(A), "its name stays");
    let answer = packet(b"answer");
    let sealed = nodes[B].sealer.seal(name(A), &answer, &[]).unwrap();
    assert!(matches!(sealed, Sealed::Packet(to, _) if to == elsewhere), "the answer goes where it is");

    nodes[B].wireguard.publish([(name(9), key)]);
    let sealed = nodes[B].sealer.seal(name(9), &answer, &[]).unwrap();
    assert!(matches!(sealed, Sealed::Packet(to, _) if to == name(9)), "its lease moved: the session stays");

    let datagram = nodes[A].seal(B, &packet(b"old key")).unwrap().1.unwrap();
    nodes[B].wireguard.publish([(name(A), Identity::from_bytes([99; KEY_LEN]).public())]);
    assert_eq!(nodes[B].open(A, &datagram), Err(Reason::Stranger), "the old key's session is gone");
    assert!(matches!(nodes[B].sealer.seal(name(A), &answer, &[]), Ok(Sealed::Handshake(..))));
}

#[test]
fn each_new_peer_is_called_once_unasked() {
    let mut nodes = pair();
    let peers = nodes[A].wireguard.peers();
    let peer = peers.by_name(name(B)).unwrap();
    let mut out = [0; LONGEST_HANDSHAKE];
    assert_eq!(peer.tick(false, &mut out), Tick::default());
    let tick = peer.tick(true, &mut out);
    assert_eq!((tick.greeted, tick.send), (true, Some((name(B), LONGEST_HANDSHAKE))));
    assert_eq!(converse(&mut nodes, out.to_vec()), Vec::<Vec<u8>>::new());
    assert!(nodes[B].seal(A, &packet(b"x")).unwrap().0, "both have a session now");
    assert_eq!(peer.tick(true, &mut out), Tick::default());
}

#[test]
fn a_flood_of_handshakes_is_asked_for_cookies() {
    let mut nodes = pair();
    let mut outcomes = Vec::new();
    let mut stranger = Node::new(5, None);
    stranger.wireguard.publish([(name(B), nodes[B].wireguard.public())]);
    let call = stranger.seal(B, &packet(b"x")).unwrap().1.unwrap();
    for _ in 0..HANDSHAKES + 3 {
        let mut sent = Sent::default();
        let outcome = nodes[B].opener.open(&call, 0..call.len(), name(5), &mut sent).unwrap_err();
        assert_eq!(sent.0.len(), usize::from(outcome == Reason::Flood));
        assert!(sent.0.iter().all(|cookie| cookie.len() < call.len()), "no amplifier");
        outcomes.push(outcome);
    }
    assert_eq!(outcomes.iter().filter(|reason| **reason == Reason::Flood).count(), 3);
    // A peer proves by the cookie that its address is its own.
    let call = nodes[A].seal(B, &packet(b"x")).unwrap().1.unwrap();
    let mut sent = Sent::default();
    assert_eq!(nodes[B].opener.open(&call, 0..call.len(), name(A), &mut sent), Err(Reason::Flood));
    assert_eq!(nodes[A].open(B, &sent.0[0]).unwrap(), (None, Vec::new()));
    let peers = nodes[A].wireguard.peers();
    let mut out = [0; LONGEST_HANDSHAKE];
    assert!(peers.by_name(name(B)).unwrap().call_again(&mut out));
    assert_eq!(nodes[B].open(A, &out).unwrap().1.len(), 1, "answered");
    nodes[B].wireguard.next_second();
}
