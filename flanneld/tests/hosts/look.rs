//! Looking into a running flanneld: what status, capture and ping --trace say of real packets, and of each way to lose them.

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::process::Child;
use std::time::Duration;

use flanneld::look::status::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::flannel::Flanneld;
use super::lab::{Lab, Pod, within};
use super::path_mtu::black_hole;
use super::traffic::{answers, dial, echo};

pub fn status(daemon: &Flanneld) -> Status {
    let (well, text) = daemon.look(&["status", "-o", "json"]);
    assert!(well, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The findings of a trace by their stages; the last one is the one that fails, if one does.
#[track_caller]
pub fn trace(from: &Flanneld, to: Ipv4Addr, failing: Option<&str>, words: &[&str]) -> String {
    let (well, text) = from.look(&["ping", "--trace", &to.to_string()]);
    println!("{text}");
    assert_eq!(well, failing.is_none(), "{text}");
    let fails = text.lines().find_map(|line| line.strip_prefix("FAIL ")).unwrap_or_default();
    assert!(failing.is_none_or(|stage| fails.starts_with(stage)), "{text}");
    for word in words {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    text
}

#[test]
fn the_status_says_what_is() {
    let (lab, daemons, [a, b]) = Lab::pair();
    while !answers(&a, &b) {}
    let (before, sent) = (status(&daemons[0]), 25);
    for _ in 0..sent {
        assert!(answers(&a, &b));
    }
    let now = status(&daemons[0]);
    let (own, mtu) = daemons[0].subnet();
    assert!(now.ready && now.lease.as_ref().unwrap().subnets == [ipnetwork::IpNetwork::V4(own)]);
    let (interface, network) = (now.interface.clone().unwrap(), now.network.clone().unwrap());
    assert_eq!(
        (interface.name.as_str(), interface.addresses[0], interface.mtu),
        ("eth0", lab.hosts[0].ip.into(), 1500)
    );
    assert_eq!((network.backend.as_str(), network.port, network.mtu), ("udp", Some(8285), mtu));
    assert!(now.routes.iter().any(|way| way.device.as_deref() == Some("flannel0") && way.mtu == Some(mtu)));
    assert!(now.path.queues > 0 && now.path.features.len() >= 5 && now.subnet_manager.error.is_none());
    assert_eq!(now.peers.len(), 1);
    let traffic = |status: &Status| status.peers[0].traffic.unwrap();
    assert_eq!(
        (now.peers[0].public_ips[0], now.peers[0].subnets[0]),
        (lab.hosts[1].ip.into(), daemons[1].subnet().0.into())
    );
    // Datagrams of 8 bytes: 36 with their inner headers.
    let (before, after) = (traffic(&before), traffic(&now));
    assert_eq!(
        (after.out_packets - before.out_packets, after.out_bytes - before.out_bytes),
        (sent, sent * 36)
    );
    assert_eq!((after.in_packets - before.in_packets, after.in_bytes - before.in_bytes), (sent, sent * 36));
    let metric = format!(r#"flannel_peer_packets_total{{peer="{}",direction="out"}}"#, lab.hosts[1].ip);
    assert!(daemons[0].metric(&metric) >= after.out_packets);
    lease_and_convergence_are_told(&lab, &daemons[0]);
    let (_, text) = daemons[0].look(&["status"]);
    println!("{text}");
    assert!(text.contains("ready") && text.contains(&lab.hosts[1].ip.to_string()));
}

/// The age of the lease, and how long news of a lease took until packets went by them.
fn lease_and_convergence_are_told(lab: &Lab, daemon: &Flanneld) {
    const NEWS: &str = "flannel_convergence_seconds";
    let age = || (status(daemon).lease.unwrap().age, daemon.real_metric("flannel_lease_age_seconds"));
    within(Duration::from_secs(5), "the lease has an age", || age().1 > 1.0);
    let (told, metric) = age();
    assert!((told - metric).abs() < 2.0, "{told} {metric}");
    std::thread::sleep(Duration::from_secs(2));
    assert!(age().1 > metric + 0.9, "it grows");
    let read = || (daemon.metric(&format!("{NEWS}_count")), daemon.real_metric(&format!("{NEWS}_sum")));
    let before = read();
    lab.lease("10.5.200.0-24", lab.hosts[2].ip, 600);
    daemon.wait_for("flannel_leases", 3);
    let after = read();
    assert_eq!(after.0, before.0 + 1, "one piece of news");
    assert!(after.1 > before.1 && after.1 - before.1 < 0.2, "{} s", after.1 - before.1);
}

#[test]
fn what_a_stranger_does_wrong_is_told() {
    let (lab, mut daemons, _pods) = Lab::pair();
    for (args, words) in [
        (&["ping", "10.5.2"][..], "invalid"),
        (&["capture", "--port", "x"], "invalid"),
        (&["capture", "-w", "/no/such/dir/x.pcapng"], "cannot write /no/such/dir/x.pcapng"),
        (&["ping", "--trace", "10.6.0.1"], "not in the pod network 10.5.0.0/16"),
    ] {
        let (well, text) = daemons[0].look(args);
        assert!(!well && text.contains(words), "{args:?}: {text}");
    }
    lab.signal_etcd(Signal::SIGKILL);
    within(Duration::from_secs(20), "the status knows that etcd is away", || {
        status(&daemons[0]).subnet_manager.error.is_some()
    });
    daemons[0].end(Signal::SIGKILL);
    for command in ["status", "capture"] {
        let (well, text) = daemons[0].look(&[command]);
        assert!(!well && text.contains("no flanneld answers at"), "{text}");
    }
}

/// Starts a capture and waits until it listens.
pub fn capture(daemon: &Flanneld, args: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = daemon.look_on(&[&["capture"], args].concat());
    let mut words = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    words.read_line(&mut line).unwrap();
    assert!(line.contains("capturing UDP port 8285 on eth0"), "{line}");
    (child, words)
}

/// Ends it by Ctrl-C; its lines and its last word.
pub fn end(mut child: Child, mut words: BufReader<std::process::ChildStderr>) -> (String, String) {
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let (mut lines, mut last) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut lines).unwrap();
    words.read_to_string(&mut last).unwrap();
    assert!(child.wait().unwrap().success(), "{last}");
    (lines, last)
}

#[test]
fn a_capture_shows_both_views_of_the_chosen_flows() {
    let (lab, daemons, [a, b]) = Lab::pair();
    echo(&b, 80);
    while !answers(&a, &b) {}
    let (one, said) = capture(&daemons[0], &["--pod", &b.ip.to_string(), "-port", "80", "--proto=tcp"]);
    let file = lab.dir.path().join("trace.pcapng");
    let (two, heard) =
        capture(&daemons[1], &["-w", file.to_str().unwrap(), "--peer", &lab.hosts[0].ip.to_string()]);
    for _ in 0..5 {
        assert!(answers(&a, &b));
    }
    let mut stream = dial(a.ns.path(), b.ip, 80).unwrap();
    let sent = vec![7; 200_000];
    std::io::Write::write_all(&mut stream, &sent).unwrap();
    stream.read_exact(&mut vec![0; sent.len()]).unwrap();
    let (lines, last) = end(one, said);
    assert!(last.ends_with("; 0 frames dropped by the kernel\n"), "{last}");
    let (out, back) = (
        format!("{}.8285 > {}.8285 | {}.", lab.hosts[0].ip, lab.hosts[1].ip, a.ip),
        format!(" > {}.80: Flags [S], seq", b.ip),
    );
    assert!(lines.lines().any(|line| line.contains(&out) && line.contains(&back)), "{lines}");
    assert!(lines.contains("Flags [S.]") && !lines.contains("UDP, length"), "only what was chosen: {lines}");
    // Joined ones are shown one by one: all bytes there and back.
    let bytes = |from: Ipv4Addr| {
        let of = |line: &str| Some((line.split(" | ").nth(1)?.to_owned(), line.to_owned()));
        let lengths =
            lines.lines().filter_map(of).filter(|(inner, _)| inner.starts_with(&format!("{from}.")));
        lengths
            .filter_map(|(inner, _)| inner.split("length ").nth(1)?.split(',').next()?.parse::<usize>().ok())
            .sum::<usize>()
    };
    assert!(bytes(a.ip) >= sent.len() && bytes(b.ip) >= sent.len(), "{} {}", bytes(a.ip), bytes(b.ip));
    let (_, last) = end(two, heard);
    assert!(last.contains(" packets in "), "{last}");
    // tcpdump is another reader of the file, without a setting.
    let read = std::process::Command::new("tcpdump").args(["-nr", file.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    let inner = format!(" > {}.80: Flags [S], seq", b.ip);
    assert!(
        text.contains(&inner)
            && text.contains(&format!("IP {}.8285 > {}.8285: UDP", lab.hosts[0].ip, lab.hosts[1].ip)),
        "{text}"
    );
}

#[test]
fn a_full_disk_ends_a_capture_with_a_word() {
    let (_lab, daemons, [a, b]) = Lab::pair();
    while !answers(&a, &b) {}
    let (child, words) = capture(&daemons[0], &["-w", "/dev/full"]);
    for _ in 0..200 {
        answers(&a, &b);
    }
    let done = child.wait_with_output().unwrap();
    let last: Vec<String> = words.lines().map(Result::unwrap).collect();
    assert!(!done.status.success() && last.concat().contains("cannot write /dev/full"), "{last:?}");
    assert!(last.concat().contains("No space left on device"), "{last:?}");
}

struct Scene {
    daemons: [Flanneld; 2],
    pods: [Pod; 2],
    /// Last, as it takes the others' files with it.
    lab: Lab,
}

impl Scene {
    fn new() -> Scene {
        let (lab, daemons, pods) = Lab::pair();
        while !answers(&pods[0], &pods[1]) {}
        Scene { daemons, pods, lab }
    }
}

#[test]
fn a_trace_passes_where_all_is_well_and_names_what_is_not_there() {
    let scene = Scene::new();
    let (pod, peer) = (scene.pods[1].ip, scene.lab.hosts[1].ip);
    let text = trace(&scene.daemons[0], pod, None, &["ok   tunnel", "ok   bridge", "ok   pod", "ok   size"]);
    assert!(text.contains(&format!("is held by {peer}")), "{text}");
    let (well, text) = scene.daemons[0].look(&["ping", "-c", "2", &pod.to_string()]);
    assert!(well && text.contains("2 sent, 2 answered, 0 % lost"), "{text}");
    let nobody = Ipv4Addr::from(u32::from(pod) + 40);
    trace(
        &scene.daemons[0],
        nobody,
        Some("pod"),
        &["ok   tunnel", &format!("there is no pod {nobody} on {peer}")],
    );
    trace(&scene.daemons[0], Ipv4Addr::new(10, 5, 0, 9), Some("lease"), &["no lease covers 10.5.0.9"]);
    let (well, text) = scene.daemons[0].look(&["ping", "--trace", "-o", "json", &pod.to_string()]);
    let findings: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(well && findings.iter().all(|finding| finding["verdict"] == "ok"), "{text}");
}

#[test]
fn a_dead_flanneld_is_told_from_a_dead_host() {
    let mut scene = Scene::new();
    let (pod, peer) = (scene.pods[1].ip, scene.lab.hosts[1].ip);
    scene.daemons[1].end(Signal::SIGKILL);
    let dead = format!("{peer} is up, but nobody listens on UDP 8285 there: its flanneld is dead");
    trace(&scene.daemons[0], pod, Some("tunnel"), &[&format!("ok   host       {peer}"), &dead]);
    scene.lab.unplug(1);
    let (_, text) = scene.daemons[0].look(&["ping", "--trace", &pod.to_string()]);
    println!("{text}");
    assert!(text.contains("the host is down") && !text.contains("flanneld is dead"), "{text}");
}

#[test]
fn a_filtered_port_is_told_from_a_dead_flanneld() {
    let scene = Scene::new();
    scene.lab.drop_between("udp dport 8285");
    let words =
        ["ok   host", "nothing comes back by UDP 8285: it is filtered on the way", "packets out, 0 in"];
    trace(&scene.daemons[0], scene.pods[1].ip, Some("tunnel"), &words);
}

/// flanneld asks on its own how large packets may be, when packets begin to flow; what happens later it finds out within a minute.
pub fn the_way_is_known_to_be_wide() {
    std::thread::sleep(Duration::from_secs(2));
}

#[test]
fn a_black_hole_that_flanneld_has_found_is_told() {
    // It is there before the first packet, with which flanneld asks.
    let (_lab, daemons, [a, b]) = black_hole(1400);
    within(Duration::from_secs(10), "it is found", || {
        answers(&a, &b);
        daemons[0].metric("flannel_path_mtu_narrow_peers") == 1
    });
    // The second time the kernel knows it, too.
    for _ in 0..2 {
        trace(
            &daemons[0],
            b.ip,
            None,
            &["?    size", "flanneld has found that 1372 pass", "no more than 1400 bytes on the wire"],
        );
    }
}

#[test]
fn a_black_hole_for_large_packets_is_measured() {
    let scene = Scene::new();
    the_way_is_known_to_be_wide();
    // Of the IP packet between the hosts.
    scene.lab.drop_between("ip protocol udp ip length > 1400");
    let words = ["ok   pod", "1472 bytes vanish and nobody tells, 1372 pass", "1500 vanish, 1400 pass"];
    trace(&scene.daemons[0], scene.pods[1].ip, Some("size"), &words);
}

#[test]
fn a_route_that_leads_elsewhere_is_found() {
    let scene = Scene::new();
    let pod = scene.pods[1].ip;
    super::lab::inside(scene.lab.hosts[0].ns.path(), async || {
        let netlink = hostnet::Netlink::connect().unwrap();
        let to = hostnet::Route::to(std::net::IpAddr::from(pod).into());
        let astray = hostnet::Route { gateway: Some([198, 18, 50, 254].into()), ..to };
        netlink.replace_route(&astray).await.unwrap();
    });
    trace(&scene.daemons[0], pod, Some("route"), &["leaves by eth0 via 198.18.50.254, not by flannel0"]);
}
