//! Flags and environment: flannel's names, flannel's rules. [`Cli`] is the syntax, [`Config`] the meaning.

mod cli;
mod kube;
pub mod network;
#[cfg(test)]
mod table;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use regex_lite::Regex;

use crate::backend::udp;
use crate::family::{Dual, Family};
use crate::lease::etcd::Access;
use crate::lease::kube::Access as KubeAccess;
use crate::logging;
use crate::look::status::Manager;
use crate::owner::Owner;
pub use cli::Cli;

/// The meaning of the command line.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where leases come from.
    pub leases: Leases,
    /// How the interface is found.
    pub iface: IfaceChoice,
    /// The advertised addresses, where they are not the interface's own.
    pub public: Dual<IpAddr>,
    /// Where the CNI plugin finds the subnet.
    pub subnet_file: PathBuf,
    /// How long before its end a lease is renewed.
    pub renew_margin: Duration,
    /// How long a lease lasts, in seconds.
    pub lease_ttl: i64,
    /// Masquerade what leaves the network.
    pub ip_masq: bool,
    /// Let it choose source ports by chance, so that two connections seldom want the same.
    pub random_ports: bool,
    /// Drop what is sent to the own subnet while no interface has it.
    pub blackhole: bool,
    /// Accept forwarded traffic of the network.
    pub forward_rules: bool,
    /// Between two looks at device, routes and rules.
    pub resync: Duration,
    /// How the udp backend moves packets.
    pub datapath: udp::Options,
    /// Where health and metrics are served.
    pub healthz: Option<SocketAddr>,
    /// Take the place of a flanneld that runs.
    pub take_over: bool,
}

impl Config {
    /// The socket by which this host's flanneld is spoken to, beside the subnet file.
    pub fn socket(&self) -> PathBuf {
        socket(&self.subnet_file)
    }

    /// Whose is what this flanneld makes in the kernel for these networks.
    pub fn owner(&self, networks: Dual<IpNetwork>) -> Owner {
        Owner::new(&self.subnet_file, networks)
    }
}

/// Where leases come from.
#[derive(Debug, Clone)]
pub enum Leases {
    /// They are taken in etcd.
    Etcd(Access),
    /// Kubernetes gives them to its nodes.
    Kube(KubeAccess),
}

impl Leases {
    /// Which source that is.
    pub fn manager(&self) -> Manager {
        match self {
            Leases::Etcd(_) => Manager::Etcd,
            Leases::Kube(_) => Manager::Kubernetes,
        }
    }
}

/// The socket of the flanneld with this subnet file.
pub fn socket(subnet_file: &Path) -> PathBuf {
    subnet_file.with_extension("sock")
}

/// What the flags say of the external interface, in the order in which it counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// `--iface`: names or addresses, the first that is there.
    pub names: Vec<String>,
    /// `--iface-regex`, checked: each is tried against all addresses and then against all names.
    pub patterns: Vec<String>,
    /// `--iface-can-reach`: the one by which this address is reached.
    pub can_reach: Option<IpAddr>,
}

/// How the external interface is found; the first of these that is given counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfaceChoice {
    /// What the flags name.
    Given(Given),
    /// The one that has the public addresses.
    PublicIp,
    /// The one with the default routes.
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
    /// Whether only the version is asked for.
    pub fn wants_version(&self) -> bool {
        self.version.0
    }

    /// Whether a flanneld that runs is only asked whether it carries packets.
    pub fn asks_readiness(&self) -> bool {
        self.ready.0
    }

    /// What is logged.
    pub fn logging(&self) -> logging::Options {
        logging::Options {
            verbosity: self.verbosity,
            modules: self.vmodule.clone(),
            backtrace_at: self.log_backtrace_at.clone(),
        }
    }

    /// Checks the values and reads the files that they name.
    pub fn config(self) -> Result<Config, BadConfig> {
        if !(1..=1439).contains(&self.subnet_lease_renew_margin) {
            return Err(bad("subnet-lease-renew-margin", "must be between 1 and 1439 minutes"));
        }
        if self.subnet_lease_ttl < 2 {
            return Err(bad("subnet-lease-ttl", "must be at least 2 seconds"));
        }
        let public = Dual {
            v4: address("public-ip", &self.public_ip, Family::V4)?,
            v6: address("public-ipv6", &self.public_ipv6, Family::V6)?,
        };
        Ok(Config {
            iface: self.iface_choice(&public)?,
            leases: self.leases(|name| std::env::var(name).ok())?,
            public,
            subnet_file: self.subnet_file,
            renew_margin: Duration::from_secs(self.subnet_lease_renew_margin * 60),
            lease_ttl: self.subnet_lease_ttl,
            ip_masq: self.ip_masq.0,
            random_ports: !self.ip_masq_fully_random_disable.0,
            blackhole: self.ip_blackhole_route.0,
            forward_rules: self.iptables_forward_rules.0,
            resync: Duration::from_secs(self.iptables_resync.max(1)),
            datapath: udp::Options {
                level: self.datapath,
                queues: self.datapath_queues,
                fast: self.fast_path,
                wireguard: self.wireguard,
            },
            take_over: self.take_over.0,
            healthz: (self.healthz_port != 0).then(|| SocketAddr::new(self.healthz_ip, self.healthz_port)),
        })
    }

    fn leases(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Leases, BadConfig> {
        if self.kube_subnet_mgr.0 {
            return Ok(Leases::Kube(kube::access(self, variable)?));
        }
        Ok(Leases::Etcd(self.access()?))
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

    fn iface_choice(&self, public: &Dual<IpAddr>) -> Result<IfaceChoice, BadConfig> {
        let can_reach = match self.iface_can_reach.as_str() {
            "" => None,
            text => {
                Some(text.parse().map_err(|_| bad("iface-can-reach", format!("{text} is no IP address")))?)
            }
        };
        for pattern in &self.iface_regex {
            Regex::new(pattern).map_err(|error| {
                bad("iface-regex", format!("{pattern} is no regular expression: {error}"))
            })?;
        }
        let given = Given { names: self.iface.clone(), patterns: self.iface_regex.clone(), can_reach };
        Ok(match given == Given::default() {
            false => IfaceChoice::Given(given),
            true if public.is_empty() => IfaceChoice::Default,
            true => IfaceChoice::PublicIp,
        })
    }
}

fn address(flag: &'static str, text: &str, family: Family) -> Result<Option<IpAddr>, BadConfig> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip = text.parse().ok().filter(|ip| Family::of(*ip) == family);
    ip.map(Some).ok_or_else(|| bad(flag, format!("{text} is no {family} address")))
}

/// The file's content. An empty file counts as none: a Secret's key is empty where etcd is used without TLS.
fn pem(flag: &'static str, path: &str) -> Result<Option<Vec<u8>>, BadConfig> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = fs::read(path).map_err(|error| bad(flag, format!("cannot read {path}: {error}")))?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, BadConfig> {
        let all = ["flanneld"].iter().chain(args).map(ToString::to_string);
        Cli::from_args(all).config()
    }

    fn named(names: &[&str]) -> IfaceChoice {
        let names = names.iter().map(ToString::to_string).collect();
        IfaceChoice::Given(Given { names, ..Given::default() })
    }

    #[test]
    fn flags_are_gos() {
        let config =
            config(&["-ip-masq", "--iface=eth1", "-etcd-prefix", "/other", "--healthz-port=8081"]).unwrap();
        assert!(config.ip_masq && config.forward_rules && config.random_ports && !config.blackhole);
        assert_eq!(config.iface, named(&["eth1"]));
        let Leases::Etcd(etcd) = config.leases else { panic!("{:?}", config.leases) };
        assert_eq!((etcd.prefix.as_str(), etcd.endpoints.len()), ("/other", 2));
        assert_eq!(config.healthz.unwrap().port(), 8081);
    }

    #[test]
    fn public_addresses_are_of_their_family() {
        let public = config(&["--public-ip=192.0.2.7"]).unwrap();
        assert_eq!(public.iface, IfaceChoice::PublicIp);
        assert_eq!(public.public, Dual::only_v4("192.0.2.7".parse().unwrap()));
        let public = config(&["--public-ipv6=fd00::7", "--iface=eth1"]).unwrap();
        assert_eq!((public.public.v6, public.public.v4), ("fd00::7".parse().ok(), None));
        assert_eq!(public.iface, named(&["eth1"]));
    }

    #[test]
    fn the_last_of_a_flag_counts_and_interfaces_add_up() {
        let config = config(&["--etcd-prefix=/a", "--iface=a", "--etcd-prefix=/b", "--iface=b"]).unwrap();
        assert!(matches!(config.leases, Leases::Etcd(Access { ref prefix, .. }) if prefix == "/b"));
        assert_eq!(config.iface, named(&["a", "b"]));
        assert_eq!(config.socket(), PathBuf::from("/run/flannel/subnet.sock"));
    }

    #[test]
    fn commands_stand_beside_the_flags() {
        let parse = |args: &str| Cli::try_from_args(args.split(' ').map(str::to_owned)).unwrap();
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
            assert!(Cli::try_from_args(args.clone().map(str::to_owned)).is_err(), "{args:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (args, flag) in [
            (&["--iface-regex=eth(.*"][..], "iface-regex"),
            (&["--iface-can-reach=nowhere"], "iface-can-reach"),
            (&["--subnet-lease-renew-margin=1440"], "renew-margin"),
            (&["--public-ip=nonsense"], "public-ip"),
            (&["--public-ip=fd00::1"], "fd00::1 is no IPv4 address"),
            (&["--public-ipv6=192.0.2.1"], "public-ipv6"),
            (&["--etcd-cafile=/no/such/file"], "/no/such/file"),
        ] {
            let text = config(args).unwrap_err().to_string();
            assert!(text.contains(flag), "{text}");
        }
    }
}
