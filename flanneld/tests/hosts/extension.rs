//! The extension backend: real programs are told of other nodes, and none of them can hold up flanneld.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::flannel::Flanneld;
use super::lab::{Lab, SUBNETS, within};
use super::traffic::answers;

const SOON: Duration = Duration::from_secs(5);

/// A script of the test's, as a user would have one.
fn script(lab: &Lab, name: &str, lines: &str) -> String {
    let path = lab.dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn configure(lab: &Lab, commands: &str) {
    let config = format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"extension",{commands}}}}}"#);
    lab.put("/coreos.com/network/config", config);
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// host-gw out of four commands.
#[test]
fn the_users_commands_carry_the_packets() {
    let lab = Lab::with_hosts(2);
    let log = lab.dir.path().join("told");
    let after = format!("sleep 1; echo after $NETWORK $SUBNET $PUBLIC_IP >> {}", log.display());
    let after = script(&lab, "after", &after);
    let add = format!("echo add $1 >> {}; exec ip route replace $1 via $2", log.display());
    let add = script(&lab, "add", &add);
    configure(
        &lab,
        &format!(
            r#""PreStartupCommand":"uname -n","PostStartupCommand":"{after}","SubnetAddCommand":"{add} $SUBNET ${{PUBLIC_IP}}","SubnetRemoveCommand":"ip route del $SUBNET""#
        ),
    );
    let mut daemons = [0, 1].map(|n| Flanneld::start(&lab, n, &[]));
    let (a, b) = (lab.pod(0, &daemons[0]), lab.pod(1, &daemons[1]));
    within(SOON, "the pods talk", || answers(&a, &b));
    // What the kernel has is the commands' own: looking after it is not flanneld's.
    std::thread::sleep(Duration::from_secs(6));
    assert!(answers(&a, &b), "flanneld left the route alone");

    let (subnet, mtu) = daemons[1].subnet();
    assert_eq!(mtu, 1500);
    let expected = format!("10.5.0.0/16 {subnet} {}", lab.hosts[1].ip);
    let told = lines(&log);
    let at = |line: &str| told.iter().position(|l| l == line).unwrap_or_else(|| panic!("{line}: {told:?}"));
    let (started, added) = (at(&format!("after {expected}")), at(&format!("add {}", daemons[0].subnet().0)));
    assert!(started < added, "no node before the start: {told:?}");
    let key = format!("{SUBNETS}{}-24", subnet.network());
    let value = lab.etcd(async |mut client| {
        client.get(key.clone(), None).await.unwrap().kvs()[0].value_str().unwrap().to_owned()
    });
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let ip = lab.hosts[1].ip;
    let flannels = format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"extension","BackendData":"{name}","Holder":"#
    );
    assert!(value.starts_with(&flannels), "{value}");

    daemons[1].end(nix::sys::signal::Signal::SIGTERM);
    lab.etcd(async |mut client| client.delete(key, None).await.unwrap());
    within(SOON, "the route is gone", || !answers(&a, &b));
}

/// What another node's lease says is data: one argument, or standard input, and never a command (CVE-2026-32241).
#[test]
fn what_a_lease_says_is_no_command() {
    let lab = Lab::with_hosts(1);
    let (told, owned) = (lab.dir.path().join("told"), lab.dir.path().join("owned"));
    let add = script(&lab, "add", &format!("cat > {0}; echo \"$# $1 $2\" >> {0}", told.display()));
    configure(&lab, &format!(r#""SubnetAddCommand":"{add} $SUBNET $PUBLIC_IP""#));
    let daemon = Flanneld::start(&lab, 0, &[]);
    let evil = format!("$(touch {0}); touch {0} `touch {0}` $SUBNET", owned.display());
    let value = format!(
        r#"{{"PublicIP":"192.0.2.9","BackendType":"extension","BackendData":{}}}"#,
        serde_json::to_string(&evil).unwrap()
    );
    lab.put(&format!("{SUBNETS}10.5.200.0-24"), value);
    within(SOON, "it is told", || lines(&told).len() == 2);
    assert_eq!(lines(&told), [evil, "2 10.5.200.0/24 192.0.2.9".to_owned()]);
    lab.put(
        &format!("{SUBNETS}10.5.201.0-24"),
        format!(r#"{{"PublicIP":"; touch {}","BackendType":"extension"}}"#, owned.display()),
    );
    daemon.wait_for("flannel_bad_records", 1);
    assert!(!owned.exists());
}

#[test]
fn commands_that_fail_say_why() {
    let lab = Lab::with_hosts(1);
    configure(&lab, r#""PreStartupCommand":"ls /no/such/folder""#);
    let mut daemon = Flanneld::spawn(&lab, 0, &[]);
    within(SOON, "it ends", || !daemon.is_running());
    let log = daemon.log();
    assert!(log.contains("PreStartupCommand") && log.contains("/no/such/folder"), "{log}");

    configure(&lab, r#""SubnetAddCommand":"cat /no/such/file && true""#);
    let daemon = Flanneld::start(&lab, 0, &[]);
    lab.lease("10.5.200.0-24", lab.hosts[0].ip, 600);
    lab.put(&format!("{SUBNETS}10.5.201.0-24"), r#"{"PublicIP":"192.0.2.9","BackendType":"extension"}"#);
    within(SOON, "the failure is logged", || daemon.log().contains("No such file or directory"));
    assert!(daemon.log().contains("without a shell"), "a warning tells what && does");
}

/// A command that never ends is killed, with what it started; flanneld renews its lease and answers meanwhile.
#[test]
fn a_command_that_hangs_holds_up_nothing() {
    let lab = Lab::with_hosts(1);
    let pid = lab.dir.path().join("pid");
    let hang = script(&lab, "hang", &format!("sleep 1000 & echo $! > {}; wait", pid.display()));
    configure(&lab, &format!(r#""SubnetAddCommand":"{hang}""#));
    let daemon = Flanneld::start(&lab, 0, &["--subnet-lease-ttl", "6"]);
    let (subnet, _) = daemon.subnet();
    let value = r#"{"PublicIP":"192.0.2.9","BackendType":"extension"}"#;
    lab.put(&format!("{SUBNETS}10.5.200.0-24"), value);
    within(SOON, "it hangs", || lines(&pid).len() == 1);
    let sleeper = format!("/proc/{}", lines(&pid)[0]);
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        assert!(daemon.get("/readyz").unwrap().contains("is ready"), "its lease is renewed");
        std::thread::sleep(Duration::from_millis(500));
    }
    within(Duration::from_secs(20), "it is killed", || daemon.log().contains("did not end within 30s"));
    within(SOON, "with what it started", || !Path::new(&sleeper).exists());
    assert_eq!(daemon.subnet().0, subnet);
}
