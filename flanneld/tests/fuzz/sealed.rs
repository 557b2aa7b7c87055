//! What comes to a node with WireGuard: messages of a peer, changed somewhere or not, and any bytes at all.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use flanneld::datapath::wireguard::{Answer, Identity, KEY_LEN, OVERHEAD, Opener, Sealed, Sealer, Wireguard};

const ROOM: usize = 1 << 16;
const MTU: usize = 1420;

struct Node {
    wireguard: Arc<Wireguard>,
    sealer: Sealer,
    opener: Opener,
}

#[derive(Default)]
struct Answers(Vec<Vec<u8>>);

impl Answer for Answers {
    fn handshake(&mut self, message: &[u8], _: SocketAddr) {
        self.0.push(message.to_vec());
    }
    fn packet(&mut self, sealed: &[u8], _: SocketAddr) {
        self.0.push(sealed.to_vec());
    }
}

fn name(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 51820))
}

impl Node {
    fn new(n: u8, other: u8) -> Node {
        let wireguard = Arc::new(Wireguard::new(Identity::from_bytes([n; KEY_LEN]), None, 0));
        wireguard.publish([(name(other), Identity::from_bytes([other; KEY_LEN]).public())]);
        Node { sealer: Sealer::new(&wireguard, MTU), opener: Opener::new(wireguard.clone(), ROOM), wireguard }
    }

    fn seal(&mut self, to: u8, packet: &[u8]) -> Option<Vec<u8>> {
        self.sealer.clear();
        match self.sealer.seal(name(to), &[], packet) {
            Ok(Sealed::Packet(_, at) | Sealed::Handshake(_, at)) => Some(self.sealer.bytes()[at].to_vec()),
            _ => None,
        }
    }

    fn open(&mut self, from: u8, datagram: &[u8]) -> (Option<Vec<u8>>, Vec<Vec<u8>>) {
        let mut answers = Answers::default();
        let opened = self.opener.open(datagram, 0..datagram.len(), name(from), &mut answers);
        let packet = opened.ok().flatten().map(|(_, at)| self.opener.packet(at).to_vec());
        (packet, answers.0)
    }
}

/// Two nodes with a session.
fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1, 2), Node::new(2, 1));
    let call = a.seal(2, &[0x45; 20]).unwrap();
    let answer = b.open(1, &call).1.remove(0);
    for message in a.open(2, &answer).1 {
        b.open(1, &message);
    }
    (a, b)
}

/// The first bytes say what is done with the rest: sent as it is, or as a packet in a sealed message, of which one bit may be changed.
pub fn sealed(data: &[u8]) {
    thread_local!(static PAIR: RefCell<(Node, Node)> = RefCell::new(pair()));
    let Some((&[kind, high, low], rest)) = data.split_first_chunk() else { return };
    PAIR.with_borrow_mut(|(a, b)| {
        b.wireguard.next_second();
        if kind & 1 == 0 {
            let (packet, _) = b.open(1, &rest[..rest.len().min(ROOM)]);
            assert_eq!(packet, None, "out of thin air");
            return;
        }
        let plain = &rest[..rest.len().min(MTU)];
        let Some(mut message) = a.seal(2, plain) else { return };
        let changed = kind & 2 != 0;
        if changed {
            let at = usize::from(u16::from_be_bytes([high, low]));
            let length = message.len();
            message[at / 8 % length] ^= 1 << (at % 8);
        }
        let (packet, _) = b.open(1, &message);
        let Some(packet) = packet else { return };
        assert!(!changed, "changed and taken");
        assert!(packet.len() <= plain.len().next_multiple_of(16) && message.len() >= packet.len() + OVERHEAD);
        let common = packet.len().min(plain.len());
        assert_eq!(packet[..common], plain[..common]);
        assert!(packet[common..].iter().all(|byte| *byte == 0), "what fills up is nothing");
    });
}
