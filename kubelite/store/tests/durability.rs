//! What is on disk survives, what is damaged is refused, and nothing in between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kubelite_store::{DeleteRequest, Error, KeyRange, Options, PutRequest, RangeRequest, Store};

type Contents = BTreeMap<Bytes, (Bytes, i64, i64, i64)>;

fn contents(store: &Store) -> (i64, Contents) {
    let all = store.range(&RangeRequest::new(KeyRange::prefix(""))).unwrap();
    let kvs = all.kvs.into_iter();
    let kvs = kvs.map(|kv| (kv.key, (kv.value, kv.create_revision, kv.mod_revision, kv.version)));
    (all.revision, kvs.collect())
}

fn open(dir: &Path) -> Result<Store, Error> {
    Store::open(dir, Options::default())
}

async fn put(store: &Store, key: &str, value: &str) -> i64 {
    let put =
        PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() };
    store.put(put).await.unwrap().1
}

async fn delete(store: &Store, key: &str) {
    let range = KeyRange::key(key.to_owned());
    store.delete(DeleteRequest { range, prev_kv: false }).await.unwrap();
}

/// A small history, and what stood there after each of its revisions.
async fn history(dir: &Path) -> Vec<(i64, Contents)> {
    let store = open(dir).unwrap();
    let mut states = vec![contents(&store)];
    for index in 0..6 {
        put(&store, &format!("k{}", index % 3), &format!("value {index}")).await;
        states.push(contents(&store));
    }
    delete(&store, "k1").await;
    states.push(contents(&store));
    states
}

fn the_log(dir: &Path) -> PathBuf {
    dir.join(format!("{:016x}.log", 1))
}

/// A directory with this log, as a crash or a bad disk may leave it.
fn with_log(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(the_log(dir.path()), bytes).unwrap();
    dir
}

/// The log without the zeros that it was filled with.
fn written(dir: &Path) -> Vec<u8> {
    let mut bytes = fs::read(the_log(dir)).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes.truncate(end + 1);
    bytes
}

#[tokio::test]
async fn a_closed_store_opens_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let states = history(dir.path()).await;
    for _ in 0..3 {
        assert_eq!(contents(&open(dir.path()).unwrap()), states[states.len() - 1]);
    }
    let store = open(dir.path()).unwrap();
    let next = put(&store, "after", "x").await;
    assert_eq!(next, states[states.len() - 1].0 + 1);
    drop(store);
    assert_eq!(contents(&open(dir.path()).unwrap()).0, next);
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert_eq!(refused, Error::InUse(dir.path().to_owned()));
}

#[tokio::test]
async fn a_log_cut_anywhere_gives_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let states = history(dir.path()).await;
    let log = written(dir.path());
    let mut seen = 0;
    for cut in 32..log.len() {
        let cut_dir = with_log(&log[..cut]);
        let found = contents(&open(cut_dir.path()).unwrap());
        let index = states.iter().position(|state| *state == found);
        let index = index.unwrap_or_else(|| panic!("cut at {cut}: a state that never was"));
        assert!(index >= seen, "cut at {cut}: a longer log gives an older state");
        seen = index;
    }
    assert_eq!(seen, states.len() - 1);
    for cut in 0..32 {
        assert!(matches!(open(with_log(&log[..cut]).path()), Err(Error::Damaged { .. })), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_flipped_byte_is_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let states = history(dir.path()).await;
    let log = written(dir.path());
    let mut refused = 0;
    for index in 0..log.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut flipped = log.clone();
            flipped[index] ^= mask;
            match open(with_log(&flipped).path()) {
                Ok(store) => assert_eq!(&contents(&store), states.last().unwrap(), "flip at {index}"),
                Err(Error::Damaged { .. }) => refused += 1,
                Err(other) => panic!("flip at {index}: {other}"),
            }
        }
    }
    // Only flips in the seal and in padding are harmless.
    assert!(refused > log.len() * 2, "{refused} of {} flips were noticed", log.len() * 3);
}

#[tokio::test]
async fn snapshots_bound_the_log_and_keep_everything() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { snapshot_after: 16 * 1024 };
    let store = Store::open(dir.path(), options).unwrap();
    let lease = store.grant(0, 600).await.unwrap();
    let leased = PutRequest { key: "leased".into(), value: "x".into(), lease, ..PutRequest::default() };
    store.put(leased).await.unwrap();
    for index in 0..400 {
        put(&store, &format!("k{}", index % 7), &"v".repeat(200)).await;
    }
    store.compact(store.revision() - 10).await.unwrap();
    delete(&store, "k3").await;
    for index in 0..200 {
        put(&store, &format!("l{}", index % 7), &"v".repeat(200)).await;
    }
    let (before, compacted) = (contents(&store), store.compacted());
    drop(store);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name.to_string_lossy().ends_with(".snapshot")), "{names:?}");
    assert!(names.len() <= 6, "old files stay: {names:?}");
    let store = Store::open(dir.path(), options).unwrap();
    assert_eq!((contents(&store), store.compacted()), (before, compacted));
    assert_eq!(store.lease(lease).unwrap().keys, ["leased"]);
    let revision = store.revision();
    store.revoke(lease).await.unwrap();
    assert_eq!(store.get(b"leased"), None);
    assert_eq!(store.revision(), revision + 1);
    // A damaged snapshot is refused, not skipped.
    drop(store);
    let snapshot = names.iter().filter(|name| name.to_string_lossy().ends_with(".snapshot")).max().unwrap();
    let path = dir.path().join(snapshot);
    let path = if path.exists() { path } else { newest_snapshot(dir.path()) };
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Damaged { .. })));
}

fn newest_snapshot(dir: &Path) -> PathBuf {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "snapshot")).max().unwrap()
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options { snapshot_after: 4096 }).unwrap();
    for index in 0..100 {
        put(&store, &format!("k{index}"), &"v".repeat(100)).await;
    }
    drop(store);
    let paths = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let last = paths.filter(|path| path.extension().is_some_and(|ending| ending == "log")).max().unwrap();
    fs::remove_file(last).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Damaged { .. })));
}
