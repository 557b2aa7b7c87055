//! flannel's flags as a table: each is there, with flannel's default and variable. And how Go's rules of flags and variables are kept.

use super::Cli;

/// Name, default and a value that must be understood: all of flannel's flags, then ours.
const FLAGS: [(&str, &str, &str); 38] = [
    ("etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "http://192.0.2.1:2379"),
    ("etcd-prefix", "/coreos.com/network", "/other"),
    ("etcd-keyfile", "", "/key"),
    ("etcd-certfile", "", "/cert"),
    ("etcd-cafile", "", "/ca"),
    ("etcd-username", "", "root"),
    ("etcd-password", "", "secret"),
    ("iface", "", "eth0"),
    ("iface-regex", "", "eth[0-9]{1,2}"),
    ("iface-can-reach", "", "192.0.2.1"),
    ("subnet-file", "/run/flannel/subnet.env", "/tmp/subnet.env"),
    ("public-ip", "", "192.0.2.1"),
    ("public-ipv6", "", "fd00::1"),
    ("subnet-lease-renew-margin", "60", "1439"),
    ("ip-masq", "false", "true"),
    ("ip-masq-fully-random-disable", "false", "true"),
    ("kube-subnet-mgr", "false", "true"),
    ("kube-api-url", "", "https://192.0.2.1:6443"),
    ("kubeconfig-file", "", "/kubeconfig"),
    ("kube-annotation-prefix", "flannel.alpha.coreos.com", "example.org/flannel"),
    ("net-config-path", "/etc/kube-flannel/net-conf.json", "/tmp/net-conf.json"),
    ("set-node-network-unavailable", "true", "false"),
    ("healthz-ip", "0.0.0.0", "127.0.0.1"),
    ("healthz-port", "0", "8081"),
    ("iptables-resync", "5", "60"),
    ("iptables-forward-rules", "true", "false"),
    ("ip-blackhole-route", "false", "true"),
    ("v", "0", "10"),
    ("vmodule", "", "keep=2,iface*=1"),
    ("log_backtrace_at", "", "keep.rs:41"),
    ("version", "false", "true"),
    // Ours.
    ("take-over", "false", "true"),
    ("ready", "false", "true"),
    ("subnet-lease-ttl", "86400", "60"),
    ("fast-path", "auto", "on"),
    ("wireguard", "auto", "user"),
    ("datapath", "offload", "plain"),
    ("datapath-queues", "", "2"),
];

fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_from_args(["flanneld"].iter().chain(args).map(ToString::to_string))
}

#[test]
fn every_flag_has_flannels_name_default_and_variable() {
    let command = Cli::syntax();
    for (name, default, _) in FLAGS {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name));
        let arg = arg.unwrap_or_else(|| panic!("--{name} is missing"));
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(defaults.join(","), default, "--{name}");
        let variable = format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "--{name}");
    }
    let known = |long: &str| long == "help" || FLAGS.iter().any(|(name, _, _)| *name == long);
    for arg in command.get_arguments().filter_map(clap::Arg::get_long) {
        assert!(known(arg), "--{arg} stands in no row of this table");
    }
}

#[test]
fn every_flag_is_understood_with_one_dash_and_with_two() {
    for (name, _, value) in FLAGS {
        for dashes in ["-", "--"] {
            parse(&[&format!("{dashes}{name}={value}")]).unwrap_or_else(|e| panic!("{dashes}{name}: {e}"));
        }
        parse(&[&format!("--{name}=\u{1}")])
            .err()
            .into_iter()
            .for_each(|e| assert_eq!(e.exit_code(), 2, "{name}"));
    }
}

#[test]
fn switches_are_gos() {
    for (args, expected) in [
        (&[][..], false),
        (&["-ip-masq"], true),
        (&["--ip-masq=1"], true),
        (&["--ip-masq=F"], false),
        (&["--ip-masq", "--iface=eth0"], true),
    ] {
        assert_eq!(parse(args).unwrap().ip_masq.0, expected, "{args:?}");
    }
    assert_eq!(parse(&["--ip-masq=maybe"]).unwrap_err().exit_code(), 2);
}

#[test]
fn lists_are_as_long_as_they_are_given() {
    let cli =
        parse(&["-iface", "eth0", "--iface=eth1", "--iface-regex=a{1,2}", "-iface-regex", "b"]).unwrap();
    assert_eq!(
        (cli.iface.as_slice(), cli.iface_regex.as_slice()),
        (&["eth0", "eth1"].map(String::from)[..], &["a{1,2}", "b"].map(String::from)[..])
    );
}

#[test]
fn log_levels_are_klogs() {
    for (arg, level) in [("-v=2", 2), ("-v3", 3), ("--v=10", 10), ("--v=-1", -1)] {
        assert_eq!(parse(&[arg]).unwrap().verbosity, level, "{arg}");
    }
    for bad in
        ["--vmodule=keep", "--vmodule=keep=x", "--log_backtrace_at=keep.rs", "--log_backtrace_at=keep.rs:0"]
    {
        assert_eq!(parse(&[bad]).unwrap_err().exit_code(), 2, "{bad}");
    }
}

#[test]
fn help_is_in_groups() {
    let help = Cli::syntax().render_long_help().to_string();
    let places: Vec<usize> = [
        "Leases in etcd:",
        "Subnets from Kubernetes:",
        "Interface:",
        "Rules and routes:",
        "What others read:",
        "Logs:",
    ]
    .iter()
    .map(|heading| help.find(heading).unwrap_or_else(|| panic!("no {heading} in\n{help}")))
    .collect();
    assert!(places.is_sorted(), "{help}");
}
