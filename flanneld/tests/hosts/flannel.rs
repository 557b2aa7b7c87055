//! A running flanneld: started in its host, asked for its numbers, ended in several ways.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use hostnet::netns::run_in;
use ipnetwork::{Ipv4Network, Ipv6Network};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lab::{Lab, endpoint, within};

/// The first network's; the others' are counted from there.
const HEALTH: u16 = 8081;

/// A flanneld; killed with the value.
pub struct Flanneld {
    child: Child,
    host: PathBuf,
    /// Which of its host's networks it carries, from 0 on.
    pub network: u8,
    /// Its subnet file.
    pub file: PathBuf,
    log: PathBuf,
}

impl Flanneld {
    /// Starts it on a host and waits until it carries packets.
    pub fn start(lab: &Lab, host: usize, more: &[&str]) -> Flanneld {
        let daemon = Flanneld::spawn(lab, host, more);
        daemon.wait_ready();
        daemon
    }

    /// Starts it on a host.
    pub fn spawn(lab: &Lab, host: usize, more: &[&str]) -> Flanneld {
        Flanneld::spawn_with(lab, host, more, &[])
    }

    /// Starts it on a host, with further variables.
    pub fn spawn_with(lab: &Lab, host: usize, more: &[&str], variables: &[(&str, &str)]) -> Flanneld {
        Flanneld::spawn_program(env!("CARGO_BIN_EXE_flanneld"), lab, host, more, variables)
    }

    /// Starts it on a host for another network than the first, which has its configuration at [`prefix`]; does not wait.
    pub fn spawn_in(lab: &Lab, host: usize, network: u8, more: &[&str]) -> Flanneld {
        Flanneld::launch(lab, (host, network), Command::new(env!("CARGO_BIN_EXE_flanneld")), more)
    }

    /// Starts it with the fast path on a host without some capabilities (of capabilities(7), without `CAP_`), and waits until it carries packets.
    pub fn start_without(lab: &Lab, host: usize, capabilities: &[&str]) -> Flanneld {
        let without: Vec<String> = capabilities.iter().map(|name| format!("-{name}")).collect();
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", &without.join(","), env!("CARGO_BIN_EXE_flanneld")]);
        let daemon = Flanneld::launch(lab, (host, 0), command, &["--fast-path=on"]);
        daemon.wait_ready();
        daemon
    }

    /// Starts it on a host that was started again: the kernel has another id of this boot, and nothing of what an earlier flanneld wrote is there.
    pub fn spawn_after_boot(lab: &Lab, host: usize, more: &[&str]) -> Flanneld {
        let boot = lab.dir.path().join("boot_id");
        fs::write(&boot, "00000000-0000-4000-8000-000000000002\n").unwrap();
        let mut command = Command::new("unshare");
        let replace = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;
        command.args(["--mount", "sh", "-c", replace]).arg(boot).arg(env!("CARGO_BIN_EXE_flanneld"));
        Flanneld::launch(lab, (host, 0), command, more)
    }

    /// Starts another program that understands the same flags.
    pub fn spawn_program(
        program: &str,
        lab: &Lab,
        host: usize,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Flanneld {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        Flanneld::launch(lab, (host, 0), command, more)
    }

    fn launch(lab: &Lab, (host, network): (usize, u8), mut command: Command, more: &[&str]) -> Flanneld {
        let ns = lab.hosts[host].ns.path().to_owned();
        let name = if network == 0 { host.to_string() } else { format!("{host}-{network}") };
        let [file, log] = ["env", "log"].map(|what| lab.dir.path().join(format!("{name}.{what}")));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        command
            .args(["--etcd-endpoints", &endpoint(), "--etcd-prefix", &prefix(network)])
            .args(["--healthz-ip", "127.0.0.1", "--healthz-port", &health(network).to_string()])
            .args(["--ip-masq", "--subnet-file"])
            .arg(&file)
            .args(more)
            // Hosts share the machine's files.
            .env("WIREGUARD_KEY_FILE", file.with_extension("wgkey"))
            .stdout(Stdio::null())
            .stderr(out);
        let child = run_in(&ns, || command.spawn()).unwrap();
        let child = child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Flanneld { child, host: ns, network, file, log }
    }

    /// Looks into it: one of flanneld's other commands, on its host; whether it succeeded, and what it printed.
    pub fn look(&self, args: &[&str]) -> (bool, String) {
        let mut command = self.look_command(args);
        let done = run_in(&self.host, || command.output().unwrap()).unwrap();
        let text = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8(text).unwrap())
    }

    /// The same, started and left alone.
    pub fn look_on(&self, args: &[&str]) -> Child {
        let mut command = self.look_command(args);
        run_in(&self.host, || command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).unwrap()
    }

    fn look_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flanneld"));
        command.args(args).arg("--subnet-file").arg(&self.file);
        command
    }

    /// Waits until it carries packets; how long that took.
    pub fn wait_ready(&self) -> Duration {
        within(Duration::from_secs(20), "flanneld is ready", || {
            self.get("/readyz").is_some_and(|text| text.contains("is ready"))
        })
    }

    /// Ends it by a signal and waits until it is gone.
    pub fn end(&mut self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The subnet and MTU that it wrote.
    pub fn subnet(&self) -> (Ipv4Network, u32) {
        let text = fs::read_to_string(&self.file).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let first: Ipv4Network = field("FLANNEL_SUBNET=").parse().unwrap();
        let subnet = Ipv4Network::new(first.network(), first.prefix()).unwrap();
        (subnet, field("FLANNEL_MTU=").parse().unwrap())
    }

    /// The IPv6 subnet that it wrote, if there is one.
    pub fn subnet6(&self) -> Option<Ipv6Network> {
        let text = fs::read_to_string(&self.file).unwrap();
        let first = text.lines().find_map(|line| line.strip_prefix("FLANNEL_IPV6_SUBNET="))?;
        let first: Ipv6Network = first.parse().unwrap();
        Some(Ipv6Network::new(first.network(), first.prefix()).unwrap())
    }

    /// What it logged, the runs before it on this host included.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// A number of /metrics; 0 if it is not there.
    pub fn metric(&self, name: &str) -> u64 {
        self.read_metric(name)
    }

    /// The same of one that counts parts, too.
    pub fn real_metric(&self, name: &str) -> f64 {
        self.read_metric(name)
    }

    fn read_metric<T: FromStr<Err: std::fmt::Debug> + Default>(&self, name: &str) -> T {
        let text = self.get("/metrics").expect("flanneld does not answer");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(T::default(), |number| number.parse().unwrap())
    }

    /// How many packets of a direction it dropped for a reason.
    pub fn dropped(&self, direction: &str, reason: &str) -> u64 {
        self.metric(&format!(r#"flannel_drops_total{{direction="{direction}",reason="{reason}"}}"#))
    }

    /// How many packets it dropped in all.
    pub fn all_dropped(&self) -> u64 {
        let text = self.get("/metrics").expect("flanneld does not answer");
        let drops = text.lines().filter(|line| line.starts_with("flannel_drops_total"));
        drops.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Waits for a number of /metrics; how long that took.
    pub fn wait_for(&self, name: &str, number: u64) -> Duration {
        let what = format!("{name} is {number}");
        within(Duration::from_secs(20), &what, || self.metric(name) == number)
    }

    /// Asks over HTTP; none if nobody answers.
    pub fn get(&self, path: &str) -> Option<String> {
        let stream = run_in(&self.host, || TcpStream::connect(("127.0.0.1", health(self.network)))).unwrap();
        let mut stream = stream.ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: flannel\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// Where etcd has a network's configuration and leases.
pub fn prefix(network: u8) -> String {
    if network == 0 { "/coreos.com/network".to_owned() } else { format!("/network{network}") }
}

fn health(network: u8) -> u16 {
    HEALTH + u16::from(network)
}

/// Where a host's WireGuard key is.
pub fn key_file(lab: &Lab, host: usize) -> PathBuf {
    lab.dir.path().join(format!("{host}.wgkey"))
}

impl Drop for Flanneld {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- {}\n{}", self.log.display(), fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
