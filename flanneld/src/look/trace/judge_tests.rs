use super::judge::*;
use super::*;
use crate::look::status::{Network, Own, PeerTraffic};

const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 5, 2, 0);
const POD: Ipv4Addr = Ipv4Addr::new(10, 5, 2, 2);

fn status() -> Status {
    let subnets = vec!["10.5.1.0/24".parse().unwrap()];
    let traffic = Some(PeerTraffic::default());
    Status {
        ready: true,
        network: Some(Network {
            networks: vec!["10.5.0.0/16".parse().unwrap()],
            backend: "udp".into(),
            port: Some(8285),
            device: Some("flannel0".into()),
            mtu: 1472,
        }),
        lease: Some(Own {
            subnets,
            reserved: false,
            age: 1.0,
            renewed: 1.0,
            ends_in: Some(90.0),
            safe_for: Some(80.0),
        }),
        peers: vec![Peer {
            public_ips: vec![PEER.into()],
            subnets: vec!["10.5.2.0/24".parse().unwrap()],
            traffic,
        }],
        ..Status::default()
    }
}

fn echo() -> Outcome {
    Outcome { sent: 1, echo: Some(Duration::from_micros(120)), ..Outcome::default() }
}

fn silence() -> Outcome {
    Outcome { sent: 3, ..Outcome::default() }
}

fn trouble(from: Ipv4Addr, what: Trouble, outer: bool) -> Outcome {
    Outcome { trouble: vec![(from, what, outer)], ..silence() }
}

#[track_caller]
fn shows(finding: &Finding, verdict: Verdict, words: &str) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(finding.says.contains(words), "{finding:?}");
    assert_eq!(finding.next.is_none(), verdict == Verdict::Ok, "what to do next: {finding:?}");
}

#[test]
fn the_route_must_lead_into_the_backends_device_with_its_mtu() {
    let way = |device: &str, mtu| Way { device: Some(device.into()), mtu, ..Way::default() };
    for (way, verdict, words) in [
        (way("flannel0", Some(1472)), Verdict::Ok, "leaves by flannel0, MTU 1472"),
        (way("flannel0", None), Verdict::Ok, "leaves by flannel0"),
        (way("flannel0", Some(1400)), Verdict::Unsure, "with MTU 1400"),
        (way("flannel0", Some(1500)), Verdict::Fail, "the tunnel takes 1472"),
        (
            Way { via: Some("192.0.2.254".into()), ..way("eth0", None) },
            Verdict::Fail,
            "leaves by eth0 via 192.0.2.254, not by flannel0",
        ),
        (Way { error: Some("EHOSTUNREACH".into()), ..Way::default() }, Verdict::Fail, "no route to 10.5.2.2"),
    ] {
        shows(&route(POD, &way, "flannel0", 1472), verdict, words);
    }
}

#[test]
fn leases_must_be_there_on_both_sides() {
    shows(&own(&status()), Verdict::Ok, "10.5.1.0/24 is this node's, for 1 min 20 s");
    shows(&own(&Status { lease: None, ..status() }), Verdict::Fail, "no lease");
    shows(&own(&Status { ready: false, ..status() }), Verdict::Fail, "data path does not run");
    let status = status();
    let (finding, peer) = lease(POD.into(), &status);
    shows(&finding, Verdict::Ok, "10.5.2.0/24 is held by 192.0.2.2");
    assert_eq!(peer.map(|peer| peer.public_ips[0]), Some(PEER.into()));
    shows(&lease([10, 5, 9, 9].into(), &status).0, Verdict::Fail, "no lease covers 10.5.9.9");
    shows(&lease([10, 6, 9, 9].into(), &status).0, Verdict::Fail, "not in the pod network");
}

#[test]
fn the_host_is_up_down_or_silent() {
    let router = Ipv4Addr::new(192, 0, 2, 254);
    let refused = Outcome { refused: Some("Operation not permitted".into()), ..silence() };
    for (outcome, verdict, words) in [
        (echo(), Verdict::Ok, "192.0.2.2 answers in 0.12 ms"),
        (silence(), Verdict::Unsure, "does not answer pings"),
        (trouble(router, Trouble::Host, false), Verdict::Fail, "192.0.2.254 finds no way"),
        (trouble(router, Trouble::Prohibited, false), Verdict::Unsure, "does not answer"),
        (refused, Verdict::Fail, "cannot send"),
    ] {
        shows(&host(PEER, &outcome), verdict, words);
    }
}

#[test]
fn the_tunnel_tells_dead_filtered_and_down_apart() {
    let up = Known { peer: PEER, port: 8285, up: true };
    let router = Ipv4Addr::new(192, 0, 2, 254);
    let quiet = Delta { out: Some(3), into: Some(0), ..Delta::default() };
    let dropped = |reason: &str| Delta { drops: vec![(reason.into(), 3)], ..quiet.clone() };
    let stuck = |delta: Delta| Delta { out: Some(0), ..delta };
    let filtered = "filtered on the way, one way or the other, or the flanneld there hangs";
    for (known, outcome, delta, verdict, words) in [
        (up, echo(), quiet.clone(), Verdict::Ok, "10.5.2.0, the tunnel's end on 192.0.2.2, answers"),
        (up, trouble(PEER, Trouble::Port, true), quiet.clone(), Verdict::Fail, "its flanneld is dead"),
        (
            up,
            trouble(router, Trouble::Prohibited, true),
            quiet.clone(),
            Verdict::Fail,
            "192.0.2.254 refuses UDP 8285",
        ),
        (up, trouble(router, Trouble::Host, true), quiet.clone(), Verdict::Fail, "finds no way"),
        (up, silence(), quiet.clone(), Verdict::Fail, "hangs [counted here meanwhile: 3 packets out, 0 in]"),
        (Known { up: false, ..up }, silence(), quiet.clone(), Verdict::Fail, "the host is down or cut off"),
        (up, silence(), dropped("in Sender"), Verdict::Fail, "this host drops what comes: in Sender"),
        (
            up,
            silence(),
            stuck(dropped("out NoLease")),
            Verdict::Fail,
            "does not get its packets out [counted here meanwhile: 0 packets out, 0 in, 3 dropped (out NoLease)]",
        ),
        (
            up,
            silence(),
            stuck(Delta { lost: 3, ..Delta::default() }),
            Verdict::Fail,
            "does not get its packets out",
        ),
        // What other packets meet meanwhile says nothing about ours.
        (up, silence(), dropped("out Version"), Verdict::Fail, filtered),
        (up, silence(), dropped("out NoRoute"), Verdict::Fail, filtered),
        (
            up,
            silence(),
            Delta { drops: vec![("in Sender".into(), 1)], ..quiet.clone() },
            Verdict::Fail,
            filtered,
        ),
        (up, silence(), Delta { lost: 2, ..quiet.clone() }, Verdict::Fail, filtered),
    ] {
        shows(&tunnel(TUNNEL, known, &outcome, &delta), verdict, words);
    }
}

#[test]
fn behind_the_tunnel_it_is_the_bridge_or_the_pod() {
    let gateway = Ipv4Addr::new(10, 5, 2, 1);
    shows(&bridge(gateway, &echo()), Verdict::Ok, "10.5.2.1, the pods' bridge");
    shows(
        &bridge(gateway, &trouble(TUNNEL, Trouble::Net, false)),
        Verdict::Unsure,
        "10.5.2.0 says there is none",
    );
    shows(&bridge(gateway, &silence()), Verdict::Unsure, "does not answer");
    for (outcome, verdict, words) in [
        (echo(), Verdict::Ok, "answers"),
        (
            trouble(gateway, Trouble::Host, false),
            Verdict::Fail,
            "there is no pod 10.5.2.2 on 192.0.2.2: 10.5.2.1 finds nobody",
        ),
        (trouble(gateway, Trouble::Prohibited, false), Verdict::Fail, "10.5.2.1 refuses"),
        (trouble(TUNNEL, Trouble::Net, false), Verdict::Fail, "10.5.2.0 has no way"),
        (silence(), Verdict::Fail, "192.0.2.2 is reached, but 10.5.2.2 does not answer"),
    ] {
        shows(&pod(POD, "192.0.2.2", &outcome), verdict, words);
    }
}

#[test]
fn large_packets_pass_are_refused_or_vanish() {
    shows(&size(1472, 28, &Large::Pass), Verdict::Ok, "packets of 1472 bytes");
    shows(&size(1472, 28, &Large::Told(PEER, 1400)), Verdict::Unsure, "192.0.2.2 says that 1400 do");
    shows(&size(1472, 28, &Large::Found(1372)), Verdict::Unsure, "flanneld has found that 1372 pass");
    shows(&size(1472, 28, &Large::Vanish(1372)), Verdict::Fail, "1500 vanish, 1400 pass");
    shows(&size(1472, 28, &Large::Refused("Message too long".into())), Verdict::Fail, "does not send 1472");
}

#[test]
fn the_search_finds_the_largest_that_passes_in_few_questions() {
    for largest in [64, 65, 500, 1371, 1372, 1471] {
        let mut asked = 0;
        let found = search(64, 1472, |size| {
            asked += 1;
            size <= largest
        });
        assert_eq!(found, largest);
        assert!(asked <= 11, "{asked}");
    }
}
