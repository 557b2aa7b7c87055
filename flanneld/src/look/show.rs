//! The status as people read it. Pure.

use super::status::{ManagerState, Own, PathState, Status, Total};

/// All of it.
pub fn text(status: &Status) -> String {
    let mut text = head(status);
    for table in [peers(status), routes(status), totals(status)].iter().filter(|table| table.len() > 1) {
        text.push('\n');
        text.push_str(&columns(table));
    }
    text
}

fn head(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "NOT READY" };
    let Status { version, pid, uptime, .. } = status;
    let interface = status.interface.as_ref().map(|interface| {
        let differs = interface.public_ips != interface.addresses;
        let public =
            if differs { format!("  public IP {}", list(&interface.public_ips)) } else { String::new() };
        format!("{}  {}{public}  MTU {}", interface.name, list(&interface.addresses), interface.mtu)
    });
    let network = status.network.as_ref().map(|network| {
        let port = network.port.map(|port| format!("  port {port}")).unwrap_or_default();
        let device = network.device.as_ref().map(|device| format!("  device {device}")).unwrap_or_default();
        format!("{}  backend {}{port}{device}  MTU {}", list(&network.networks), network.backend, network.mtu)
    });
    let unknown = || "not known yet".to_owned();
    let source = status.subnet_manager.kind.to_string();
    let mut rows = vec![
        ("flanneld", format!("{version}  pid {pid}  running for {}  {ready}", span(*uptime))),
        ("interface", interface.unwrap_or_else(unknown)),
        ("network", network.unwrap_or_else(unknown)),
        ("lease", status.lease.as_ref().map_or_else(|| "none: nothing is forwarded".to_owned(), lease)),
        (source.as_str(), manager(&status.subnet_manager)),
        ("path", path(&status.path)),
        ("file", status.subnet_file.display().to_string()),
    ];
    if status.bad_records > 0 {
        rows.push((
            "damaged",
            format!("{} records in {source} are left out; the log names them", status.bad_records),
        ));
    }
    rows.iter().map(|(name, value)| format!("{name:<11}{value}\n")).collect()
}

fn lease(own: &Own) -> String {
    let end = match (own.reserved, own.ends_in) {
        (false, Some(left)) => format!("renewed {} ago  ends in {}", span(own.renewed), span(left)),
        _ => "reserved, without an end".to_owned(),
    };
    format!("{}  held for {}  {end}", list(&own.subnets), span(own.age))
}

fn manager(state: &ManagerState) -> String {
    let last = match state.last_answer {
        Some(age) => format!("last answer {} ago", span(age)),
        None => "never answered".to_owned(),
    };
    let restarts = match state.watch_restarts {
        0 => String::new(),
        1 => "  watch begun anew once".to_owned(),
        n => format!("  watch begun anew {n} times"),
    };
    match (&state.error, state.error_for) {
        (Some(error), Some(age)) => format!("FAILING for {}: {error}  {last}{restarts}", span(age)),
        _ => format!("{last}{restarts}"),
    }
}

fn path(path: &PathState) -> String {
    if path.queues == 0 {
        return "the kernel's own".to_owned();
    }
    let named = |wanted: bool| {
        let names = path.features.iter().filter(|(_, used)| **used == wanted).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(" ")
    };
    let (used, unused) = (named(true), named(false));
    let without = if unused.is_empty() { String::new() } else { format!("  without {unused}") };
    let queues = if path.queues == 1 { "1 queue".to_owned() } else { format!("{} queues", path.queues) };
    format!("{queues}  {used}{without}")
}

fn peers(status: &Status) -> Vec<Vec<String>> {
    let head = ["PEER", "SUBNETS", "OUT PACKETS", "OUT BYTES", "LOST", "IN PACKETS", "IN BYTES"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for peer in &status.peers {
        let mut row = vec![list(&peer.public_ips), list(&peer.subnets)];
        match peer.traffic {
            Some(t) => {
                row.extend(
                    [t.out_packets, t.out_bytes, t.lost, t.in_packets, t.in_bytes].map(|n| n.to_string()),
                );
            }
            // The kernel counts by device, not by peer.
            None => row.extend(["-"; 5].map(str::to_owned)),
        }
        rows.push(row);
    }
    rows
}

fn routes(status: &Status) -> Vec<Vec<String>> {
    let dash = || "-".to_owned();
    let mut rows = vec![["ROUTE", "VIA", "DEVICE", "MTU"].map(str::to_owned).to_vec()];
    rows.extend(status.routes.iter().map(|way| {
        let device = if way.unreachable { Some("unreachable".to_owned()) } else { way.device.clone() };
        let mtu = way.mtu.map_or_else(dash, |mtu| mtu.to_string());
        vec![way.to.to_string(), way.via.clone().unwrap_or_else(dash), device.unwrap_or_else(dash), mtu]
    }));
    rows
}

fn totals(status: &Status) -> Vec<Vec<String>> {
    let head = ["DIRECTION", "PACKETS", "BYTES", "ICMP ANSWERS", "DROPS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    if status.path.queues == 0 {
        return rows;
    }
    for direction in ["out", "in"] {
        let Some(total) = status.totals.get(direction) else { continue };
        let numbers = [total.packets, total.bytes, total.icmp_answers].map(|n| n.to_string());
        rows.push([vec![direction.to_owned()], numbers.to_vec(), vec![drops(total)]].concat());
    }
    rows
}

fn drops(total: &Total) -> String {
    if total.drops.is_empty() {
        return "none".to_owned();
    }
    total.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
}

fn list(all: &[impl ToString]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Rows in columns as wide as their widest cell.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A length of time by its two largest units.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{Interface, Manager, Network, Peer, PeerTraffic, Way};
    use super::*;

    fn status() -> Status {
        let traffic = PeerTraffic { out_packets: 12, out_bytes: 3400, lost: 1, in_packets: 9, in_bytes: 77 };
        let total = Total { packets: 12, drops: [("NoRoute".to_owned(), 3)].into(), ..Total::default() };
        Status {
            version: "0.1.0".into(),
            pid: 7,
            uptime: 7380.0,
            ready: true,
            subnet_file: "/run/flannel/subnet.env".into(),
            interface: Some(Interface {
                name: "eth0".into(),
                index: 2,
                addresses: vec![[192, 0, 2, 1].into()],
                public_ips: vec![[198, 51, 100, 1].into()],
                mtu: 1500,
            }),
            network: Some(Network {
                networks: vec!["10.5.0.0/16".parse().unwrap()],
                backend: "udp".into(),
                port: Some(8285),
                device: Some("flannel0".into()),
                mtu: 1472,
            }),
            lease: Some(Own {
                subnets: vec!["10.5.1.0/24".parse().unwrap()],
                reserved: false,
                age: 7379.0,
                renewed: 61.0,
                ends_in: Some(86_339.0),
                safe_for: Some(77_699.0),
            }),
            subnet_manager: ManagerState { last_answer: Some(3.04), ..ManagerState::default() },
            path: PathState {
                queues: 1,
                features: [("TunTso".into(), true), ("UdpGro".into(), false)].into(),
            },
            totals: [("out".to_owned(), total), ("in".to_owned(), Total::default())].into(),
            peers: vec![Peer {
                public_ips: vec![[192, 0, 2, 2].into()],
                subnets: vec!["10.5.2.0/24".parse().unwrap()],
                traffic: Some(traffic),
            }],
            routes: vec![Way {
                to: "10.5.0.0/16".parse().unwrap(),
                via: None,
                device: Some("flannel0".into()),
                mtu: Some(1472),
                unreachable: false,
            }],
            bad_records: 0,
        }
    }

    #[test]
    fn it_fits_a_screen() {
        let expected = "\
flanneld   0.1.0  pid 7  running for 2 h 3 min  ready
interface  eth0  192.0.2.1  public IP 198.51.100.1  MTU 1500
network    10.5.0.0/16  backend udp  port 8285  device flannel0  MTU 1472
lease      10.5.1.0/24  held for 2 h 2 min  renewed 1 min 1 s ago  ends in 23 h 58 min
etcd       last answer 3.0 s ago
path       1 queue  TunTso  without UdpGro
file       /run/flannel/subnet.env

PEER        SUBNETS       OUT PACKETS   OUT BYTES   LOST   IN PACKETS   IN BYTES
192.0.2.2   10.5.2.0/24   12            3400        1      9            77

ROUTE         VIA   DEVICE     MTU
10.5.0.0/16   -     flannel0   1472

DIRECTION   PACKETS   BYTES   ICMP ANSWERS   DROPS
out         12        0       0              NoRoute 3
in          0         0       0              none
";
        assert_eq!(text(&status()), expected);
    }

    #[test]
    fn what_is_wrong_stands_out() {
        let subnet_manager = ManagerState {
            kind: Manager::Kubernetes,
            last_answer: Some(95.0),
            error: Some("the API server: connection refused".into()),
            error_for: Some(90.0),
            watch_restarts: 2,
        };
        let text = text(&Status { ready: false, lease: None, subnet_manager, bad_records: 2, ..status() });
        for line in [
            "NOT READY",
            "lease      none: nothing is forwarded",
            "kubernetes FAILING for 1 min 30 s: the API server: connection refused  last answer 1 min 35 s ago  watch begun anew 2 times",
            "2 records in kubernetes are left out",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
    }

    #[test]
    fn a_daemon_that_just_starts_and_one_of_the_kernels_backends_are_told_too() {
        let starting = text(&Status::default());
        assert!(starting.contains("interface  not known yet\n") && starting.contains("never answered"));
        let mut kernel = status();
        kernel.path = PathState::default();
        kernel.peers[0].traffic = None;
        let kernel = text(&kernel);
        assert!(kernel.contains("the kernel's own") && !kernel.contains("DIRECTION"));
        assert!(kernel.contains("10.5.2.0/24   -             -"), "{kernel}");
    }
}
