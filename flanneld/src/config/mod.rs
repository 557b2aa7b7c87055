//! Flags and environment: flannel's names, flannel's rules. [`Cli`] is the syntax, [`Config`] the meaning.
//!
//! As with Go's flags, `-flag` and `--flag` mean the same and booleans are switches that may have a value. A variable of the
//! environment (`FLANNELD_` and the flag's name) counts only if the flag is not given.

pub mod network;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};

use crate::backend::udp;
use crate::datapath::path::Level;
use crate::lease::etcd::Access;
use crate::look::Look;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "flanneld",
    about = "A subnet per node from etcd, and pod packets carried in UDP",
    disable_version_flag = true,
    disable_help_subcommand = true,
    subcommand_help_heading = "Commands that look into a running flanneld",
    subcommand_value_name = "COMMAND"
)]
pub struct Cli {
    /// In place of running the daemon
    #[command(subcommand)]
    pub look: Option<Look>,
    /// Comma-delimited list of etcd endpoints
    #[arg(
        long,
        env = "FLANNELD_ETCD_ENDPOINTS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379"
    )]
    etcd_endpoints: String,
    /// etcd prefix
    #[arg(long, env = "FLANNELD_ETCD_PREFIX", default_value = "/coreos.com/network")]
    etcd_prefix: String,
    /// SSL key file used to secure etcd communication
    #[arg(long, env = "FLANNELD_ETCD_KEYFILE", default_value = "")]
    etcd_keyfile: String,
    /// SSL certification file used to secure etcd communication
    #[arg(long, env = "FLANNELD_ETCD_CERTFILE", default_value = "")]
    etcd_certfile: String,
    /// SSL Certificate Authority file used to secure etcd communication
    #[arg(long, env = "FLANNELD_ETCD_CAFILE", default_value = "")]
    etcd_cafile: String,
    /// Username for BasicAuth to etcd
    #[arg(long, env = "FLANNELD_ETCD_USERNAME", default_value = "")]
    etcd_username: String,
    /// Password for BasicAuth to etcd
    #[arg(long, env = "FLANNELD_ETCD_PASSWORD", default_value = "", hide_env_values = true)]
    etcd_password: String,
    /// Interface to use (IP or name) for inter-host communication; may be given several times, the first match is taken
    #[arg(long, env = "FLANNELD_IFACE", value_delimiter = ',')]
    iface: Vec<String>,
    /// Detect the interface by which this address is reached
    #[arg(long, env = "FLANNELD_IFACE_CAN_REACH", default_value = "")]
    iface_can_reach: String,
    /// Not there yet: regular expressions for the interface
    #[arg(long, env = "FLANNELD_IFACE_REGEX")]
    iface_regex: Vec<String>,
    /// Filename where env variables (subnet, MTU, …) will be written to
    #[arg(long, env = "FLANNELD_SUBNET_FILE", default_value = "/run/flannel/subnet.env", global = true)]
    pub subnet_file: PathBuf,
    /// IP accessible by other nodes for inter-host communication
    #[arg(long, env = "FLANNELD_PUBLIC_IP", default_value = "")]
    public_ip: String,
    /// Subnet lease renewal margin, in minutes, ranging from 1 to 1439
    #[arg(long, env = "FLANNELD_SUBNET_LEASE_RENEW_MARGIN", default_value_t = 60)]
    subnet_lease_renew_margin: u64,
    /// How long a lease lasts without renewal, in seconds; flannel's is a day
    #[arg(long, env = "FLANNELD_SUBNET_LEASE_TTL", default_value_t = 86400)]
    subnet_lease_ttl: i64,
    /// Setup IP masquerade rule for traffic destined outside of flannel network
    #[arg(long, env = "FLANNELD_IP_MASQ", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    ip_masq: Switch,
    /// Accept forwarding of the pod network's traffic
    #[arg(long, env = "FLANNELD_IPTABLES_FORWARD_RULES", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    iptables_forward_rules: Switch,
    /// Seconds between two looks at rules, routes and device
    #[arg(long, env = "FLANNELD_IPTABLES_RESYNC", default_value_t = 5)]
    iptables_resync: u64,
    /// The IP address for healthz server to listen
    #[arg(long, env = "FLANNELD_HEALTHZ_IP", default_value = "0.0.0.0")]
    healthz_ip: IpAddr,
    /// The port for healthz server to listen (0 to disable); /metrics is there too
    #[arg(long, env = "FLANNELD_HEALTHZ_PORT", default_value_t = 0)]
    healthz_port: u16,
    /// Not there yet: leases from the Kubernetes API
    #[arg(long, env = "FLANNELD_KUBE_SUBNET_MGR", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    kube_subnet_mgr: Switch,
    /// How far packets are moved together: offload, batch or plain; for measurements
    #[arg(long, env = "FLANNELD_DATAPATH", default_value = "offload", hide = true)]
    datapath: Level,
    /// Queues of the device; for measurements
    #[arg(long, env = "FLANNELD_DATAPATH_QUEUES", hide = true)]
    datapath_queues: Option<NonZeroUsize>,
    /// Print version and exit
    #[arg(long, action = ArgAction::SetTrue)]
    pub version: bool,
    /// Log level, as in klog: 0 is info, more is debug
    #[arg(short, long = "v", env = "FLANNELD_V", default_value_t = 0)]
    pub verbosity: u8,
}

/// A Go boolean: `true`, `1`, `t` and their opposites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Switch(bool);

impl std::str::FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Switch, String> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Switch(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Switch(false)),
            _ => Err(format!("{text} is neither true nor false")),
        }
    }
}

/// The meaning of the command line.
#[derive(Debug, Clone)]
pub struct Config {
    /// How etcd is reached.
    pub etcd: Access,
    /// How the interface is found.
    pub iface: IfaceChoice,
    /// The advertised address, if it is not the interface's own.
    pub public_ip: Option<Ipv4Addr>,
    /// Where the CNI plugin finds the subnet.
    pub subnet_file: PathBuf,
    /// How long before its end a lease is renewed.
    pub renew_margin: Duration,
    /// How long a lease lasts, in seconds.
    pub lease_ttl: i64,
    /// Masquerade what leaves the network.
    pub ip_masq: bool,
    /// Accept forwarded traffic of the network.
    pub forward_rules: bool,
    /// Between two looks at device, routes and rules.
    pub resync: Duration,
    /// How the udp backend moves packets.
    pub datapath: udp::Options,
    /// Where health and metrics are served.
    pub healthz: Option<SocketAddr>,
}

/// How the external interface is found; the first of these that is given counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfaceChoice {
    /// One of these names or addresses, the first that is there.
    Named(Vec<String>),
    /// The one by which an address is reached.
    CanReach(IpAddr),
    /// The one that has the public address.
    PublicIp(Ipv4Addr),
    /// The one with the default route.
    Default,
}

/// What is wrong with the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    /// A flag whose value can't be used.
    #[error("--{flag}: {problem}")]
    Flag {
        /// Without dashes.
        flag: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
}

fn bad(flag: &'static str, problem: impl Into<String>) -> BadConfig {
    BadConfig::Flag { flag, problem: problem.into() }
}

impl Cli {
    /// Parses arguments in Go's way.
    pub fn from_args(args: impl Iterator<Item = String>) -> Cli {
        Cli::parse_from(args.enumerate().map(|(i, arg)| if i == 0 { arg } else { two_dashes(arg) }))
    }

    /// Checks the values and reads the files that they name.
    pub fn config(self) -> Result<Config, BadConfig> {
        if self.kube_subnet_mgr.0 {
            return Err(bad(
                "kube-subnet-mgr",
                "leases from the Kubernetes API are not there yet; use etcd (--etcd-endpoints)",
            ));
        }
        if !self.iface_regex.is_empty() {
            return Err(bad("iface-regex", "is not there yet; name the interface by --iface"));
        }
        if !(1..=1439).contains(&self.subnet_lease_renew_margin) {
            return Err(bad("subnet-lease-renew-margin", "must be between 1 and 1439 minutes"));
        }
        if self.subnet_lease_ttl < 2 {
            return Err(bad("subnet-lease-ttl", "must be at least 2 seconds"));
        }
        let public_ip = address("public-ip", &self.public_ip)?;
        Ok(Config {
            iface: self.iface_choice(public_ip)?,
            etcd: self.access()?,
            public_ip,
            subnet_file: self.subnet_file,
            renew_margin: Duration::from_secs(self.subnet_lease_renew_margin * 60),
            lease_ttl: self.subnet_lease_ttl,
            ip_masq: self.ip_masq.0,
            forward_rules: self.iptables_forward_rules.0,
            resync: Duration::from_secs(self.iptables_resync.max(1)),
            datapath: udp::Options { level: self.datapath, queues: self.datapath_queues },
            healthz: (self.healthz_port != 0).then(|| SocketAddr::new(self.healthz_ip, self.healthz_port)),
        })
    }

    fn access(&self) -> Result<Access, BadConfig> {
        let identity =
            match (pem("etcd-certfile", &self.etcd_certfile)?, pem("etcd-keyfile", &self.etcd_keyfile)?) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => return Err(bad("etcd-certfile", "goes together with --etcd-keyfile")),
            };
        let endpoints = self.etcd_endpoints.split(',').map(str::trim).filter(|e| !e.is_empty());
        Ok(Access {
            endpoints: endpoints.map(str::to_owned).collect(),
            ca: pem("etcd-cafile", &self.etcd_cafile)?,
            identity,
            user: (!self.etcd_username.is_empty())
                .then(|| (self.etcd_username.clone(), self.etcd_password.clone())),
            prefix: self.etcd_prefix.clone(),
        })
    }

    fn iface_choice(&self, public_ip: Option<Ipv4Addr>) -> Result<IfaceChoice, BadConfig> {
        if !self.iface.is_empty() {
            return Ok(IfaceChoice::Named(self.iface.clone()));
        }
        if !self.iface_can_reach.is_empty() {
            let ip = self.iface_can_reach.parse();
            return ip.map(IfaceChoice::CanReach).map_err(|_| bad("iface-can-reach", "is no IP address"));
        }
        Ok(public_ip.map_or(IfaceChoice::Default, IfaceChoice::PublicIp))
    }
}

fn address(flag: &'static str, text: &str) -> Result<Option<Ipv4Addr>, BadConfig> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| bad(flag, format!("{text} is no IPv4 address")))
}

/// The file's content. An empty file counts as none: a Secret's key is empty where etcd is used without TLS.
fn pem(flag: &'static str, path: &str) -> Result<Option<Vec<u8>>, BadConfig> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = fs::read(path).map_err(|error| bad(flag, format!("cannot read {path}: {error}")))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Go's flags have one dash or two.
fn two_dashes(arg: String) -> String {
    let name = arg.strip_prefix('-').filter(|rest| !rest.starts_with('-') && rest.len() > 1);
    match name {
        // `-v=2` stays short, as do the others of one letter.
        Some(name)
            if name.as_bytes().get(1) != Some(&b'=')
                && name.starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            format!("--{name}")
        }
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, BadConfig> {
        let all = ["flanneld"].iter().chain(args).map(ToString::to_string);
        Cli::from_args(all).config()
    }

    #[test]
    fn flags_are_gos() {
        let config =
            config(&["-ip-masq", "--iface=eth1", "-etcd-prefix", "/other", "--healthz-port=8081"]).unwrap();
        assert!(config.ip_masq && config.forward_rules);
        assert_eq!(config.iface, IfaceChoice::Named(vec!["eth1".into()]));
        assert_eq!(config.etcd.prefix, "/other");
        assert_eq!(config.etcd.endpoints.len(), 2);
        assert_eq!(config.healthz.unwrap().port(), 8081);
    }

    #[test]
    fn switches_have_values_too() {
        assert!(!config(&["--ip-masq=false", "--iptables-forward-rules=0"]).unwrap().forward_rules);
        let public = config(&["--public-ip=192.0.2.7"]).unwrap();
        assert_eq!(public.iface, IfaceChoice::PublicIp(Ipv4Addr::new(192, 0, 2, 7)));
    }

    #[test]
    fn commands_stand_beside_the_flags() {
        let parse = |args: &str| Cli::from_args(args.split(' ').map(str::to_owned));
        assert!(parse("flanneld -ip-masq -v=2").look.is_none());
        let status = parse("flanneld status -o=json -subnet-file=/tmp/x.env");
        assert_eq!(status.subnet_file, PathBuf::from("/tmp/x.env"));
        for args in [
            "flanneld --subnet-file /tmp/x.env status -o json",
            "flanneld capture -peer 192.0.2.2 -pod=10.5.2.2 -port 80 -proto tcp -c 5 -w=/tmp/x.pcapng",
            "flanneld ping -trace 10.5.2.2",
            "flanneld ping -c=3 --s 1472 10.5.2.2",
        ] {
            assert!(parse(args).look.is_some(), "{args}");
        }
        for args in [
            "status --ip-masq",
            "ping 10.5.2",
            "ping --trace",
            "capture --port 99999",
            "capture --proto x",
            "stat",
        ] {
            let args = ["flanneld"].into_iter().chain(args.split(' '));
            assert!(Cli::try_parse_from(args.clone()).is_err(), "{args:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (args, flag) in [
            (&["--kube-subnet-mgr"][..], "kube-subnet-mgr"),
            (&["--iface-regex=eth.*"], "iface-regex"),
            (&["--subnet-lease-renew-margin=1440"], "renew-margin"),
            (&["--public-ip=nonsense"], "public-ip"),
            (&["--etcd-cafile=/no/such/file"], "/no/such/file"),
        ] {
            let text = config(args).unwrap_err().to_string();
            assert!(text.contains(flag), "{text}");
        }
    }
}
