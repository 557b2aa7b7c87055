//! How fast packets get from a pod of one host to a pod of another: `make bench-datapath`. Needs root, etcd, nft and iproute2.
//!
//! ```text
//!  pod ─ cni0 ─ host 1 ─ wire0 ════ wire0 ─ host 2 ─ cni0 ─ pod
//! ```
//!
//! Each way is what the real `flanneld` does with another configuration: plain routing (host-gw), the kernel's VXLAN, and the
//! udp backend with and without super-packets, by the kernel's programs, and sealed by flanneld; with `FLANNELD_GO=<path>` also flannel's own `flanneld` with its udp
//! backend. The ways take turns, so that what else happens on the machine meets all alike.
// Figures are what a bench is for, and it ends by a panic when it cannot measure.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod cpu;
#[path = "../../tests/hosts/flannel.rs"]
#[allow(dead_code)]
mod flannel;
#[path = "../../tests/hosts/lab.rs"]
#[allow(dead_code)]
mod lab;
mod load;
mod needs;
mod report;
mod wire;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cpu::Pinned;
use flannel::Flanneld;
use lab::{Lab, Pod};
use report::{Figures, Row};
use wire::Wire;

/// Packets from pod to pod over two hosts, by several ways.
#[derive(Parser)]
struct Args {
    /// How often each way is measured
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// How long each of the five loads lasts, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only these ways
    #[arg(long, value_delimiter = ',', value_parser = WAYS.map(|way| way.name))]
    only: Vec<String>,
    /// Each host has one processor for itself
    #[arg(long)]
    pin: bool,
    /// How the hosts are connected
    #[arg(long, value_enum, default_value = "card")]
    wire: Wire,
    /// cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// A way from host to host.
struct Way {
    name: &'static str,
    config: &'static str,
    flags: &'static [&'static str],
}

const WAYS: [Way; 8] = [
    Way { name: "routing", config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#, flags: &[] },
    Way { name: "vxlan", config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#, flags: &[] },
    Way { name: "plain", config: lab::NETWORK, flags: &["--fast-path=off", "--datapath=plain"] },
    Way { name: "batch", config: lab::NETWORK, flags: &["--fast-path=off", "--datapath=batch"] },
    Way { name: "offload", config: lab::NETWORK, flags: &["--fast-path=off"] },
    Way { name: FAST, config: lab::NETWORK, flags: &["--fast-path=on"] },
    Way {
        name: "wireguard",
        config: r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard"}}"#,
        flags: &["--datapath=offload", "--wireguard=user"],
    },
    // Packets from pod to pod meet no rules of its own making.
    Way { name: GO, config: lab::NETWORK, flags: &["--ip-masq=false", "--iptables-forward-rules=false"] },
];
/// The way by the kernel's programs.
const FAST: &str = "fast";
/// The way that is another program.
const GO: &str = "go";

fn main() -> ExitCode {
    let args = Args::parse();
    let go = std::env::var("FLANNELD_GO").ok();
    let asked = |way: &Way| args.only.iter().any(|name| name == way.name);
    let wanted = |way: &&Way| asked(way) || args.only.is_empty() && (way.name != GO || go.is_some());
    let ways: Vec<&Way> = WAYS.iter().filter(wanted).collect();
    let go = go.as_deref().filter(|_| ways.iter().any(|way| way.name == GO));
    if let Err(error) = needs::check(go, ways.iter().any(|way| way.name == GO)) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut rows: Vec<Row> = ways.iter().map(|way| Row::new(way.name)).collect();
    for repeat in 1..=args.repeats {
        for (way, row) in ways.iter().zip(&mut rows) {
            let figures = measure(way, go, &args);
            eprintln!("{repeat}/{} {}: {figures}", args.repeats, way.name);
            row.add(figures);
        }
    }
    println!("{}", report::table(&rows));
    ExitCode::SUCCESS
}

/// Starts what carries packets on a host, and waits until it does.
fn start(way: &Way, go: Option<&str>, lab: &Lab, host: usize) -> Flanneld {
    let flags = [way.flags, &["--iface=wire0"]].concat();
    match go.filter(|_| way.name == GO) {
        Some(program) => {
            let daemon = Flanneld::spawn_program(program, lab, host, &flags, &[]);
            lab::within(Duration::from_secs(20), "there is a subnet file", || daemon.file.exists());
            daemon
        }
        None => Flanneld::start(lab, host, &flags),
    }
}

fn measure(way: &Way, go: Option<&str>, args: &Args) -> Figures {
    let lab = Lab::with_hosts(2);
    lab.put("/coreos.com/network/config", way.config);
    wire::connect(&lab.hosts, args.wire, way.name == FAST);
    let processors = [0, 1].map(|n| Pinned::to(args.pin.then_some(n)));
    let daemons = [0, 1].map(|n| processors[n].run(|| start(way, go, &lab, n)));
    let pods: [Pod; 2] = [0, 1].map(|n| lab.pod(n, &daemons[n]));
    if way.name != GO {
        for daemon in &daemons {
            daemon.wait_for("flannel_leases", 2);
        }
    }
    let duration = Duration::from_secs_f64(args.seconds);
    let loads = load::Loads {
        pods: &pods,
        processors: &processors,
        duration,
        daemons: daemons.each_ref().map(Flanneld::pid),
    };
    loads.warm_up();
    let (one, one_per_cpu) = loads.tcp(1);
    let (four, four_per_cpu) = loads.tcp(4);
    let (received, lost) = loads.datagrams();
    let (p50, p99) = loads.questions();
    let (loaded_p50, loaded_p99) = loads.questions_under_load();
    Figures { one, four, one_per_cpu, four_per_cpu, kpps: received, lost, p50, p99, loaded_p50, loaded_p99 }
}

/// Runs one of the machine's own tools.
fn tool(ns: &Path, program: &str, args: &[&str]) {
    let status = hostnet::netns::run_in(ns, || std::process::Command::new(program).args(args).status());
    let status = status.unwrap().unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(status.success(), "{program} {args:?} failed");
}
