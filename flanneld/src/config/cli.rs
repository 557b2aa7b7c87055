//! The command line: syntax only. Names, defaults and variables are flannel's; what is ours beside them says so.
//!
//! As with Go's flags, `-flag` and `--flag` mean the same and booleans are switches that may have a value. A variable of the environment
//! (`FLANNELD_` and the flag's name) counts only if the flag is not given and the variable is not empty.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::backend::{fast, wireguard};
use crate::datapath::path::Level;
use crate::logging::{At, Modules};
use crate::look::Look;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "flanneld",
    about = "A subnet per node from etcd, and pod packets carried in UDP",
    after_help = "Each flag may also be given as a variable: --etcd-prefix as FLANNELD_ETCD_PREFIX. A flag goes before its variable.\n\n`flanneld mk-docker-opts` (or a link of that name) writes options for the Docker daemon; -h lists its flags.",
    disable_version_flag = true,
    // As with Go's flags the last one counts.
    args_override_self = true,
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
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        help_heading = "Leases in etcd"
    )]
    pub(super) etcd_endpoints: String,
    /// etcd prefix
    #[arg(
        long,
        env = "FLANNELD_ETCD_PREFIX",
        default_value = "/coreos.com/network",
        help_heading = "Leases in etcd"
    )]
    pub(super) etcd_prefix: String,
    /// SSL key file used to secure etcd communication
    #[arg(
        long,
        env = "FLANNELD_ETCD_KEYFILE",
        default_value = "",
        hide_default_value = true,
        help_heading = "Leases in etcd"
    )]
    pub(super) etcd_keyfile: String,
    /// SSL certification file used to secure etcd communication
    #[arg(
        long,
        env = "FLANNELD_ETCD_CERTFILE",
        default_value = "",
        hide_default_value = true,
        help_heading = "Leases in etcd"
    )]
    pub(super) etcd_certfile: String,
    /// SSL Certificate Authority file used to secure etcd communication
    #[arg(
        long,
        env = "FLANNELD_ETCD_CAFILE",
        default_value = "",
        hide_default_value = true,
        help_heading = "Leases in etcd"
    )]
    pub(super) etcd_cafile: String,
    /// Username for BasicAuth to etcd
    #[arg(
        long,
        env = "FLANNELD_ETCD_USERNAME",
        default_value = "",
        hide_default_value = true,
        help_heading = "Leases in etcd"
    )]
    pub(super) etcd_username: String,
    /// Password for BasicAuth to etcd
    #[arg(
        long,
        env = "FLANNELD_ETCD_PASSWORD",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        help_heading = "Leases in etcd"
    )]
    pub(super) etcd_password: String,
    /// Subnet lease renewal margin, in minutes, ranging from 1 to 1439
    #[arg(
        long,
        env = "FLANNELD_SUBNET_LEASE_RENEW_MARGIN",
        default_value_t = 60,
        help_heading = "Leases in etcd"
    )]
    pub(super) subnet_lease_renew_margin: u64,
    /// How long a lease lasts without renewal, in seconds; flannel's is a day
    #[arg(long, env = "FLANNELD_SUBNET_LEASE_TTL", default_value_t = 86400, help_heading = "Leases in etcd")]
    pub(super) subnet_lease_ttl: i64,

    /// Take subnets from Kubernetes' nodes (spec.podCIDR) in place of etcd; needs NODE_NAME, or POD_NAME and POD_NAMESPACE
    #[arg(long, env = "FLANNELD_KUBE_SUBNET_MGR", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true, hide_possible_values = true, help_heading = "Subnets from Kubernetes")]
    pub(super) kube_subnet_mgr: Switch,
    /// Kubernetes API server URL; needed only outside of a pod or to override a kubeconfig's
    #[arg(
        long,
        env = "FLANNELD_KUBE_API_URL",
        default_value = "",
        hide_default_value = true,
        help_heading = "Subnets from Kubernetes"
    )]
    pub(super) kube_api_url: String,
    /// Kubeconfig file; with neither it nor a URL the pod's service account is used
    #[arg(
        long,
        env = "FLANNELD_KUBECONFIG_FILE",
        default_value = "",
        hide_default_value = true,
        help_heading = "Subnets from Kubernetes"
    )]
    pub(super) kubeconfig_file: String,
    /// Kubernetes annotation prefix; at most one slash
    #[arg(
        long,
        env = "FLANNELD_KUBE_ANNOTATION_PREFIX",
        default_value = "flannel.alpha.coreos.com",
        help_heading = "Subnets from Kubernetes"
    )]
    pub(super) kube_annotation_prefix: String,
    /// The network configuration file
    #[arg(
        long,
        env = "FLANNELD_NET_CONFIG_PATH",
        default_value = "/etc/kube-flannel/net-conf.json",
        help_heading = "Subnets from Kubernetes"
    )]
    pub(super) net_config_path: PathBuf,
    /// Set the node's condition NetworkUnavailable to False once its network is there
    #[arg(long, env = "FLANNELD_SET_NODE_NETWORK_UNAVAILABLE", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", help_heading = "Subnets from Kubernetes")]
    pub(super) set_node_network_unavailable: Switch,

    /// Interface to use (IP or name) for inter-host communication; may be given several times, the first match is taken
    #[arg(long, env = "FLANNELD_IFACE", value_delimiter = ',', help_heading = "Interface")]
    pub(super) iface: Vec<String>,
    /// Regular expression for the interface, tried against addresses and then names; may be given several times, counts if no --iface matches
    #[arg(long, env = "FLANNELD_IFACE_REGEX", help_heading = "Interface")]
    pub(super) iface_regex: Vec<String>,
    /// Detect the interface by which this address is reached; counts only if neither --iface nor --iface-regex matches
    #[arg(
        long,
        env = "FLANNELD_IFACE_CAN_REACH",
        default_value = "",
        hide_default_value = true,
        help_heading = "Interface"
    )]
    pub(super) iface_can_reach: String,
    /// IP accessible by other nodes for inter-host communication
    #[arg(
        long,
        env = "FLANNELD_PUBLIC_IP",
        default_value = "",
        hide_default_value = true,
        help_heading = "Interface"
    )]
    pub(super) public_ip: String,
    /// IPv6 accessible by other nodes for inter-host communication
    #[arg(
        long,
        env = "FLANNELD_PUBLIC_IPV6",
        default_value = "",
        hide_default_value = true,
        help_heading = "Interface"
    )]
    pub(super) public_ipv6: String,

    /// Setup IP masquerade rule for traffic destined outside of flannel network
    #[arg(long, env = "FLANNELD_IP_MASQ", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true, help_heading = "Rules and routes")]
    pub(super) ip_masq: Switch,
    /// Masquerade without randomised source ports
    #[arg(long, env = "FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true, help_heading = "Rules and routes")]
    pub(super) ip_masq_fully_random_disable: Switch,
    /// Accept forwarding of the pod network's traffic
    #[arg(long, env = "FLANNELD_IPTABLES_FORWARD_RULES", num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", help_heading = "Rules and routes")]
    pub(super) iptables_forward_rules: Switch,
    /// Drop packets to the own subnet while no interface has it, in place of refusing them
    #[arg(long, env = "FLANNELD_IP_BLACKHOLE_ROUTE", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true, help_heading = "Rules and routes")]
    pub(super) ip_blackhole_route: Switch,
    /// Seconds between two looks at rules, routes and device
    #[arg(long, env = "FLANNELD_IPTABLES_RESYNC", default_value_t = 5, help_heading = "Rules and routes")]
    pub(super) iptables_resync: u64,

    /// Filename where env variables (subnet, MTU, …) will be written to; each network of a host has its own
    #[arg(
        long,
        global = true,
        env = "FLANNELD_SUBNET_FILE",
        default_value = "/run/flannel/subnet.env",
        help_heading = "What others read"
    )]
    pub subnet_file: PathBuf,
    /// The IP address for healthz server to listen
    #[arg(long, env = "FLANNELD_HEALTHZ_IP", default_value = "0.0.0.0", help_heading = "What others read")]
    pub(super) healthz_ip: IpAddr,
    /// The port for healthz server to listen (0 to disable); /readyz and /metrics are there too
    #[arg(long, env = "FLANNELD_HEALTHZ_PORT", default_value_t = 0, help_heading = "What others read")]
    pub(super) healthz_port: u16,

    /// Log level: 0 is info, 1 debug, 4 all of flanneld's own, 8 that of its libraries too
    #[arg(
        short,
        long = "v",
        env = "FLANNELD_V",
        default_value_t = 0,
        allow_negative_numbers = true,
        help_heading = "Logs"
    )]
    pub(super) verbosity: i32,
    /// Comma-separated list of pattern=N settings for file-filtered logging, e.g. keep=4,iface*=1
    #[arg(
        long,
        env = "FLANNELD_VMODULE",
        default_value = "",
        hide_default_value = true,
        help_heading = "Logs"
    )]
    pub(super) vmodule: Modules,
    /// When a line of this file:N is logged, emit a stack trace
    #[arg(
        long = "log_backtrace_at",
        env = "FLANNELD_LOG_BACKTRACE_AT",
        default_value = "",
        hide_default_value = true,
        help_heading = "Logs"
    )]
    pub(super) log_backtrace_at: At,

    /// Whether the kernel carries most packets of the udp backend by itself (BPF): on, off, or auto (on, but not over a veth)
    #[arg(long, env = "FLANNELD_FAST_PATH", default_value = "auto", help_heading = "Packets")]
    pub(super) fast_path: fast::Wanted,
    /// Whose WireGuard the wireguard backend uses: kernel, user (flanneld's own), or auto (the kernel's where it has one)
    #[arg(long, env = "FLANNELD_WIREGUARD", default_value = "auto", help_heading = "Packets")]
    pub(super) wireguard: wireguard::Wanted,

    /// If another flanneld with this subnet file runs on this host, take its place without a gap; it then stands by until it is ended
    #[arg(long, env = "FLANNELD_TAKE_OVER", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true, help_heading = "Upgrade")]
    pub(super) take_over: Switch,
    /// Ask the flanneld of this container, or of this host, whether it carries packets, and exit: 0 if it does (for probes)
    #[arg(long, env = "FLANNELD_READY", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true, help_heading = "Upgrade")]
    pub(super) ready: Switch,

    /// Print version and exit
    #[arg(long, env = "FLANNELD_VERSION", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true)]
    pub(super) version: Switch,

    /// How far packets are moved together: offload, batch or plain; for measurements
    #[arg(long, env = "FLANNELD_DATAPATH", default_value = "offload", hide = true)]
    pub(super) datapath: Level,
    /// Queues of the device; for measurements
    #[arg(long, env = "FLANNELD_DATAPATH_QUEUES", hide = true)]
    pub(super) datapath_queues: Option<NonZeroUsize>,
}

/// A Go boolean: `true`, `1`, `t` and their opposites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Switch(pub(super) bool);

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

impl Cli {
    /// Parses arguments in Go's way; ends the process where they can't be understood (2) or help is asked for (0).
    pub fn from_args(args: impl Iterator<Item = String>) -> Cli {
        Cli::try_from_args(args).unwrap_or_else(|error| error.exit())
    }

    /// Parses arguments in Go's way.
    pub fn try_from_args(args: impl Iterator<Item = String>) -> Result<Cli, clap::Error> {
        let args = args.enumerate().map(|(i, arg)| if i == 0 { arg } else { two_dashes(arg) });
        Cli::from_arg_matches(&Cli::syntax().try_get_matches_from(args)?)
    }

    /// The arguments, as help shows them: that each has a variable is said once. A variable that is set to nothing counts as not set.
    pub(super) fn syntax() -> clap::Command {
        let empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        Cli::command().mut_args(|arg| {
            let arg = arg.hide_env(true);
            if arg.get_env().is_some_and(empty) { arg.env(Resettable::Reset) } else { arg }
        })
    }
}

/// Go's flags have one dash or two.
fn two_dashes(arg: String) -> String {
    let name = arg.strip_prefix('-').filter(|rest| !rest.starts_with('-') && rest.len() > 1);
    match name {
        // `-v=2` and `-v2` stay short, and so does `-o=json`.
        Some(name)
            if !is_verbosity(name)
                && name.as_bytes().get(1) != Some(&b'=')
                && name.starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            format!("--{name}")
        }
        _ => arg,
    }
}

fn is_verbosity(name: &str) -> bool {
    name.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c == '=' || c.is_ascii_digit()))
}
