//! Killed processes, full disks, failing syncs, and leases over a restart. It needs root (a mount of its own) and
//! /usr/bin/strace.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kubelite_store::{DeleteRequest, Error, KeyRange, Options, PutRequest, Store};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

fn put_request(key: &str, value: Vec<u8>) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() }
}

/// The example that cargo builds together with the tests.
fn writer() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let writer = tests.parent().unwrap().parent().unwrap().join("examples/writer");
    assert!(writer.exists(), "{} is missing: run `cargo build --examples` first", writer.display());
    writer
}

/// The last acknowledged value of each client.
fn acknowledged(lines: impl Iterator<Item = String>) -> BTreeMap<String, String> {
    let pairs =
        lines.filter_map(|line| line.split_once(' ').map(|(key, value)| (key.to_owned(), value.to_owned())));
    pairs.collect()
}

fn nothing_is_lost(dir: &Path, acknowledged: &BTreeMap<String, String>) {
    let store = Store::open(dir, Options::default()).unwrap();
    for (key, value) in acknowledged {
        let found = store.get(key.as_bytes()).map(|kv| String::from_utf8(kv.value.into()).unwrap());
        // One more than acknowledged may be there: the answer was on its way.
        assert!(found.as_ref() >= Some(value), "{key} was acknowledged with {value}, but {found:?} is there");
    }
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = BTreeMap::new();
    for round in 0..12 {
        let mut child =
            Command::new(writer()).arg(dir.path()).arg("16").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let reader = std::thread::spawn(move || acknowledged(lines));
        std::thread::sleep(Duration::from_millis(60 + 37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        all.extend(reader.join().unwrap());
        nothing_is_lost(dir.path(), &all);
    }
    assert_eq!(all.len(), 16, "the writers did not get to write");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // The first two syncs belong to the new log.
    let output = Command::new("/usr/bin/strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO:when=20"])
        .arg(writer())
        .arg(dir.path())
        .arg("4")
        .output()
        .expect("cannot start /usr/bin/strace");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("a sync of") && error.contains("nothing more is written"), "{error}");
    let acknowledged = acknowledged(output.stdout.lines().map_while(Result::ok));
    assert!(!acknowledged.is_empty());
    nothing_is_lost(dir.path(), &acknowledged);
}

/// Runs `test` in a mount namespace of its own, with a file system of this size.
fn on_a_small_disk(size: &'static str, test: impl FnOnce(&Path) + Send + 'static) {
    let ran = std::thread::spawn(move || {
        let dir = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        test(dir.path());
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
    ran.join().unwrap();
}

#[test]
fn a_full_disk_refuses_puts_and_recovers() {
    on_a_small_disk("6m", |disk| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(full_disk(disk));
    });
}

async fn full_disk(disk: &Path) {
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 2 * 1024 * 1024]).unwrap();
    let store = Store::open(disk.join("data"), Options::default()).unwrap();
    let mut written = 0;
    let refused = loop {
        match store.put(put_request(&format!("k{written:04}"), vec![7; 64 * 1024])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoSpace(_)), "{refused}");
    assert!(written > 10, "only {written} puts fitted");
    // Reads go on, what was refused is not there, and what frees space still works.
    let revision = store.revision();
    assert_eq!(store.get(format!("k{written:04}").as_bytes()), None);
    assert_eq!(store.get(b"k0000").unwrap().value.len(), 64 * 1024);
    let range = KeyRange::key("k0000");
    store.delete(DeleteRequest { range, prev_kv: false }).await.unwrap();
    store.compact(revision + 1).await.unwrap();
    // With room again, so do puts; and the log is whole.
    std::fs::remove_file(&ballast).unwrap();
    let (_, last) = store.put(put_request("after", vec![1])).await.unwrap();
    assert_eq!(last, revision + 2);
    drop(store);
    let store = Store::open(disk.join("data"), Options::default()).unwrap();
    assert_eq!((store.revision(), store.get(b"k0000")), (last, None));
}

#[tokio::test]
async fn leases_survive_a_restart_and_still_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let lease = store.grant(0, 1).await.unwrap();
    for key in ["a", "b"] {
        store.put(PutRequest { lease, ..put_request(key, vec![1]) }).await.unwrap();
    }
    drop(store);
    let store = Store::open(dir.path(), Options::default()).unwrap();
    assert_eq!(store.lease(lease).unwrap().keys, ["a", "b"]);
    let (revision, start) = (store.revision(), Instant::now());
    while store.get(b"a").is_some() {
        assert!(start.elapsed() < Duration::from_secs(10), "the lease never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(start.elapsed() > Duration::from_millis(800), "the lease ended too early");
    assert_eq!((store.get(b"b"), store.revision(), store.lease(lease)), (None, revision + 1, None));
}
