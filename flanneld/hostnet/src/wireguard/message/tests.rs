//! Byte for byte, as linux/wireguard.h and linux/netlink.h lay it down; of a machine that writes the low byte first.

use super::*;

const FAMILY: u16 = 0x1f;

fn peer(endpoint: &str, subnets: &[&str]) -> Peer {
    Peer {
        preshared: None,
        endpoint: endpoint.parse().ok(),
        keepalive: 25,
        subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

/// The bytes of a text of hexadecimal digits, in which a `*` stands for so many of the same.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        let (word, times) =
            word.split_once('*').map_or((word, 1), |(word, times)| (word, times.parse().unwrap()));
        for _ in 0..times {
            bytes.extend(
                (0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap()),
            );
        }
    }
    bytes
}

#[test]
fn the_family_is_asked_for_by_its_name() {
    let expected = bytes("24000000 1000 0100 00*8 03010000 0e00 0200 776972656775617264 00 0000");
    assert_eq!(get_family(), expected);
    let answer = bytes("0e00 0200 776972656775617264 00 0000 0600 0100 1f00 0000 0800 0300 01000000");
    assert_eq!(family(&answer), Some(FAMILY));
    for cut in 0..22 {
        assert_eq!(family(&answer[..cut]), None);
    }
}

#[test]
fn a_device_is_asked_for_in_a_dump() {
    let expected = bytes("24000000 1f00 0103 00*8 00010000 0f00 0200 666c616e6e656c2d7767 00 00");
    assert_eq!(get_device(FAMILY, "flannel-wg"), expected);
}

#[test]
fn the_own_key_and_port_are_set() {
    let messages = set_device(FAMILY, "wg", &[Change::Own { private: [7; 32], port: 51820 }]);
    let expected =
        bytes("48000000 1f00 0500 00*8 01010000 0700 0200 776700 00 2400 0300 07*32 0600 0600 6cca 0000");
    assert_eq!(messages, [expected]);
}

#[test]
fn a_peer_is_set_with_all_that_it_has() {
    // Nested attributes have the highest bit; peers and subnets are numbered 0 each, to which the kernel pays no heed.
    let v4 = Change::Set([1; 32], peer("192.0.2.1:51820", &["10.5.1.0/24"]));
    let expected = bytes(
        "b0000000 1f00 0500 00*8 01010000 0700 0200 776700 00 9400 0880 9000 0080
         2400 0100 01*32 0800 0300 02000000 2400 0200 00*32 1400 0400 0200 ca6c c0000201 00*8 0600 0500 1900 0000
         2000 0980 1c00 0080 0600 0100 0200 0000 0800 0200 0a050100 0500 0300 18 000000",
    );
    assert_eq!(set_device(FAMILY, "wg", &[v4]), [expected]);
    let v6 = Peer { preshared: Some([9; 32]), ..peer("[2001:db8::1]:7", &["fc00:0:0:1::/64"]) };
    let expected = bytes(
        "c8000000 1f00 0500 00*8 01010000 0700 0200 776700 00 ac00 0880 a800 0080
         2400 0100 02*32 0800 0300 02000000 2400 0200 09*32
         2000 0400 0a00 0007 00*4 20010db8 00*11 01 00*4 0600 0500 1900 0000
         2c00 0980 2800 0080 0600 0100 0a00 0000 1400 0200 fc00 0000 0000 0001 00*8 0500 0300 40 000000",
    );
    assert_eq!(set_device(FAMILY, "wg", &[Change::Set([2; 32], v6)]), [expected]);
}

#[test]
fn a_peer_is_taken_away_by_its_key() {
    let expected = bytes(
        "50000000 1f00 0500 00*8 01010000 0700 0200 776700 00 3400 0880 3000 0080 2400 0100 01*32 0800 0300 01000000",
    );
    assert_eq!(set_device(FAMILY, "wg", &[Change::Remove([1; 32])]), [expected]);
}

/// What the kernel would list after these messages, part by part.
fn listed(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    messages.iter().map(|message| message[20..].to_vec()).collect()
}

#[test]
fn what_was_set_is_read_again_however_it_is_divided() {
    let many: Vec<String> = (0..2000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let many = peer("192.0.2.9:1", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let mut wanted = Device { private: [7; 32], port: 51820, ..Device::default() };
    wanted.peers.insert([1; 32], many);
    wanted.peers.insert(
        [2; 32],
        Peer { preshared: Some([9; 32]), ..peer("[fd00::1]:7", &["fc00::/64", "10.9.9.0/24"]) },
    );
    wanted.peers.insert([3; 32], peer("-", &[]));
    for n in 4..250 {
        wanted.peers.insert([n; 32], peer("192.0.2.1:51820", &["10.5.1.0/24"]));
    }
    let own = Change::Own { private: wanted.private, port: wanted.port };
    let peers = wanted.peers.iter().map(|(key, peer)| Change::Set(*key, peer.clone()));
    let messages = set_device(FAMILY, "wg", &std::iter::once(own).chain(peers).collect::<Vec<_>>());
    assert!(messages.len() > 5 && messages.iter().all(|message| message.len() < 2 * MOST));
    assert_eq!(read(&listed(&messages)), wanted);
}

#[test]
fn no_answer_makes_it_panic() {
    let set = Change::Set([2; 32], peer("[fd00::1]:7", &["fc00::/64"]));
    let part = listed(&set_device(FAMILY, "wg", &[set])).remove(0);
    for at in 0..part.len() {
        read(&[part[..at].to_vec()]);
        for value in [0, 1, 0xff] {
            let mut bad = part.clone();
            bad[at] = value;
            read(&[bad]);
        }
    }
}
