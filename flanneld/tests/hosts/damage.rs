//! Damaged records below the leases: each costs itself and nothing else, and is told once.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::flannel::Flanneld;
use super::lab::{Lab, SUBNETS, within};
use super::traffic::answers;

const GOOD: &str = r#"{"PublicIP":"198.18.50.3","PublicIPv6":null}"#;

/// What somebody could write, by accident or not; `%` stands for the second host's subnet.
fn damaged() -> Vec<(String, Vec<u8>)> {
    let text = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
    vec![
        text("foo", GOOD),
        text("10.5.300.0-24", GOOD),
        text("10.5.0.0-16", GOOD),
        text("0.0.0.0-0", GOOD),
        text("10.5.0.0-1", GOOD),
        text("192.0.2.0-24", GOOD),
        text("%.128-25", GOOD),
        text("%.7-24", GOOD),
        text("%.0-024", GOOD),
        text("x/%.0-24", GOOD),
        text("%.0-24&fc00::-64", GOOD),
        text("%.0-24&nonsense", GOOD),
        text("10.5.251.0-24", "{not json"),
        text("10.5.252.0-24", r#"["PublicIP"]"#),
        text("10.5.253.0-24", "{}"),
        text("10.5.246.0-24", r#"{"PublicIP":7}"#),
        text("10.5.247.0-24", r#"{"PublicIP":"nonsense"}"#),
        text("10.5.248.0-24", r#"{"PublicIP":"0.0.0.0"}"#),
        text("10.5.249.0-24", r#"{"PublicIP":"224.0.0.1"}"#),
        text("10.5.250.0-24", r#"{"PublicIP":"10.5.9.9"}"#),
        ("10.5.245.0-24".to_owned(), vec![0xff; 1 << 20]),
        ("10.5.244.0-24".to_owned(), b"[".repeat(100_000)),
        (format!("long{}", "g".repeat(10_000)), vec![0; 1 << 20]),
        ("many".to_owned(), vec![b' '; 1 << 20]),
        ("more".to_owned(), vec![b'{'; 1 << 20]),
        ("\u{1b}[31m\nred".to_owned(), vec![0; 1]),
    ]
}

fn warnings(daemon: &Flanneld) -> Vec<String> {
    daemon.log().lines().filter(|line| line.contains("is damaged")).map(str::to_owned).collect()
}

#[test]
fn damaged_records_cost_only_themselves() {
    let (lab, mut daemons, [a, b]) = Lab::pair();
    let subnet = daemons[1].subnet().0.network().to_string();
    let prefix = subnet.strip_suffix(".0").unwrap();
    let records: Vec<_> =
        damaged().into_iter().map(|(key, value)| (key.replace('%', prefix), value)).collect();
    for (n, (key, value)) in records.iter().enumerate() {
        lab.put(&format!("{SUBNETS}{key}"), value.clone());
        daemons[0].wait_for("flannel_bad_records", n as u64 + 1);
        assert!(within(Duration::from_secs(1), key, || answers(&a, &b)) < Duration::from_secs(1));
        assert_eq!(daemons[0].metric("flannel_leases"), 2, "{key}");
    }
    for (key, value) in &records {
        lab.put(&format!("{SUBNETS}{key}"), value.clone());
    }
    daemons[1].wait_for("flannel_bad_records", records.len() as u64);
    std::thread::sleep(Duration::from_millis(500));
    let told = warnings(&daemons[0]);
    assert_eq!(told.len(), records.len(), "each is told once: {told:#?}");
    assert!(told.iter().all(|line| line.len() < 400), "a log line is not as long as a record");

    // A daemon that starts with all that there finds its lease and its peer.
    daemons[0].end(Signal::SIGTERM);
    daemons[0] = Flanneld::start(&lab, 0, &[]);
    daemons[0].wait_for("flannel_bad_records", records.len() as u64);
    assert_eq!(daemons[0].metric("flannel_leases"), 2);
    assert!(within(Duration::from_secs(5), "after a restart", || answers(&a, &b)) < Duration::from_secs(5));
    lab.etcd(async |mut client| {
        for (key, _) in &records {
            client.delete(format!("{SUBNETS}{key}"), None).await.unwrap();
        }
    });
    daemons[0].wait_for("flannel_bad_records", 0);
    assert!(answers(&a, &b));
}

/// The own record is damaged: it is written again, and the pods keep their addresses and connections.
#[test]
fn the_own_damaged_record_is_mended() {
    let (lab, daemons, [a, b]) = Lab::pair();
    let subnet = daemons[0].subnet();
    let key = format!("{SUBNETS}{}-24", subnet.0.network());
    let value = |lab: &Lab| {
        lab.etcd(async |mut client| {
            let answer = client.get(key.as_str(), None).await.unwrap();
            let kv = answer.kvs().first()?;
            Some((kv.value_str().unwrap_or_default().to_owned(), kv.lease() != 0))
        })
    };
    let right = value(&lab);
    lab.put(&key, "{not json");
    within(Duration::from_secs(2), "it is mended", || value(&lab) == right);
    lab.etcd(async |mut client| client.delete(key.as_str(), None).await.unwrap());
    within(Duration::from_secs(2), "it is there again", || value(&lab) == right);
    within(Duration::from_secs(2), "the pods talk", || answers(&a, &b));
    assert_eq!(daemons[0].subnet(), subnet);
}
