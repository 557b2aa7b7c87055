//! Pods reach each other, and the outside: across hosts, on one host, by TCP, UDP and ping.

use anyhow::{Result, ensure};
use e2e::lab::Lab;
use e2e::network::{OUTSIDE, OUTSIDE_IP, SWITCH};
use e2e::probe::Pod;
use e2e::run::words;

const SERVE: &str = "echo from-$HOSTNAME > /www/index.html; httpd -f -p 8080 -h /www";

#[test]
fn tcp_crosses_hosts() -> Result<()> {
    let lab = Lab::attach()?;
    let server = Pod::start(&lab, "tcp-server", 1, SERVE)?;
    let client = Pod::start(&lab, "tcp-client", 2, "sleep 3600")?;
    let answer = client.exec(&["wget", "-qO-", &format!("http://{}:8080/", server.ip)])?;
    ensure!(answer.trim() == "from-tcp-server", "{answer}");
    Ok(())
}

/// A question by UDP arrives at the pod on the other host; nobody listens there, so the answer is that it is refused.
#[test]
fn udp_crosses_hosts() -> Result<()> {
    let lab = Lab::attach()?;
    let server = Pod::start(&lab, "udp-server", 3, "sleep 3600")?;
    let client = Pod::start(&lab, "udp-client", 1, "sleep 3600")?;
    let filter = format!("udp dst port 53 and dst host {}", server.ip);
    let mut dump = words(&format!("ip netns exec node3 timeout 10 tcpdump -nli cni0 -c 1 {filter}"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let _refused = client.exec(&["nslookup", "there.test", &server.ip]);
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut dump.stdout.take().unwrap(), &mut seen)?;
    dump.wait()?;
    ensure!(
        seen.contains(&format!("{}.", client.ip)) && seen.contains(&format!("> {}.53", server.ip)),
        "seen: {seen}"
    );
    Ok(())
}

/// The pod's MTU is what fits into the underlay: a packet of that size crosses, unfragmented, and one byte more is refused.
#[test]
fn ping_of_the_mtu_crosses_hosts() -> Result<()> {
    let lab = Lab::attach()?;
    let to = Pod::start(&lab, "ping-to", 2, "sleep 3600")?;
    let from = Pod::start(&lab, "ping-from", 3, "sleep 3600")?;
    let mtu: usize = from.exec(&["cat", "/sys/class/net/eth0/mtu"])?.trim().parse()?;
    let outer = match lab.backend()?.as_str() {
        "udp" => 28,
        "vxlan" => 50,
        _ => 0,
    };
    ensure!(mtu == 1500 - outer, "the pod's MTU is {mtu}, not 1500 less the {outer} bytes of outer headers");
    let size = (mtu - 28).to_string();
    let text = from.exec(&["ping", "-c", "3", "-s", &size, &to.ip])?;
    ensure!(text.contains(" 0% packet loss"), "{text}");
    Ok(())
}

#[test]
fn pods_of_one_host_reach_each_other() -> Result<()> {
    let lab = Lab::attach()?;
    let server = Pod::start(&lab, "same-server", 2, SERVE)?;
    let client = Pod::start(&lab, "same-client", 2, "sleep 3600")?;
    let answer = client.exec(&["wget", "-qO-", &format!("http://{}:8080/", server.ip)])?;
    ensure!(answer.trim() == "from-same-server", "{answer}");
    Ok(())
}

/// The outside has no route to pods: an answer comes back only because the host masquerades.
#[test]
fn pods_reach_the_outside_by_masquerade() -> Result<()> {
    let lab = Lab::attach()?;
    let client = Pod::start(&lab, "outward", 3, "sleep 3600")?;
    let mut dump = words(&format!("ip netns exec {OUTSIDE} timeout 10 tcpdump -nli eth0 -c 1 icmp"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let text = client.exec(&["ping", "-c", "3", OUTSIDE_IP])?;
    ensure!(text.contains(" 0% packet loss"), "{text}");
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut dump.stdout.take().unwrap(), &mut seen)?;
    dump.wait()?;
    ensure!(seen.contains(&format!("{} > {OUTSIDE_IP}", lab.host(3).ip)), "the outside saw: {seen}");
    Ok(())
}

/// Nothing that pods send to each other is on the wire in clear, unless that is what the backend does.
#[test]
fn the_wire_carries_only_encapsulated_pod_packets() -> Result<()> {
    let lab = Lab::attach()?;
    let to = Pod::start(&lab, "clear-to", 1, "sleep 3600")?;
    let from = Pod::start(&lab, "clear-from", 2, "sleep 3600")?;
    let mut dump = words(&format!("ip netns exec {SWITCH} timeout 4 tcpdump -nli node1 net 10.42.0.0/16"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    from.exec(&["ping", "-c", "3", "-i", "0.2", &to.ip])?;
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut dump.stdout.take().unwrap(), &mut seen)?;
    dump.wait()?;
    let plain = lab.backend()? == "host-gw";
    ensure!(plain != seen.trim().is_empty(), "in clear: {seen}");
    Ok(())
}
