//! The engine against a model: random histories, with compactions and restarts in between, must read the same as a
//! plain list of maps.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use kubelite_store::{
    Compare, Comparison, DeleteRequest, Error, KeyRange, KeyValue, Operation, Options, PutRequest,
    RangeRequest, Store, Target, TxnRequest, WatchBatch, WatchRequest,
};
use proptest::prelude::*;

/// Everything that stood there, by revision: the simplest thing that could be right.
#[derive(Default)]
struct Model {
    states: Vec<BTreeMap<Bytes, KeyValue>>,
    compacted: i64,
}

impl Model {
    fn new() -> Self {
        // Revisions 0 and 1 are empty.
        Model { states: vec![BTreeMap::new(), BTreeMap::new()], compacted: 0 }
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn now(&self) -> BTreeMap<Bytes, KeyValue> {
        self.states.last().unwrap().clone()
    }

    fn put(map: &mut BTreeMap<Bytes, KeyValue>, key: Bytes, value: Bytes, revision: i64) {
        let before = map.get(&key);
        let kv = KeyValue {
            create_revision: before.map_or(revision, |kv| kv.create_revision),
            version: before.map_or(1, |kv| kv.version + 1),
            mod_revision: revision,
            lease: 0,
            key: key.clone(),
            value,
        };
        map.insert(key, kv);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    DeleteSpan(u8, u8),
    /// If the first key has this version: put both keys, else delete the second one.
    Txn(u8, i64, u8),
    Compact(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..6u8;
    prop_oneof![
        6 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key.clone().prop_map(Step::Delete),
        1 => (key.clone(), key.clone()).prop_map(|(from, to)| Step::DeleteSpan(from, to)),
        3 => (key.clone(), 0..3i64, key).prop_map(|(key, version, other)| Step::Txn(key, version, other)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

fn key(number: u8) -> Bytes {
    format!("k{number}").into()
}

fn put_request(number: u8, value: &Bytes) -> PutRequest {
    PutRequest { key: key(number), value: value.clone(), ..PutRequest::default() }
}

/// A log so short that snapshots happen all the time.
fn open(dir: &Path) -> Store {
    Store::open(dir, Options { snapshot_after: 512 }).unwrap()
}

async fn apply(store: &Store, model: &mut Model, step: &Step) {
    let next = model.revision() + 1;
    let mut now = model.now();
    let before = now.clone();
    match step {
        Step::Put(number, value) => {
            let value = Bytes::from(vec![*value; 40]);
            store.put(put_request(*number, &value)).await.unwrap();
            Model::put(&mut now, key(*number), value, next);
        }
        Step::Delete(number) => delete(store, KeyRange::key(key(*number)), &mut now).await,
        Step::DeleteSpan(from, to) => delete(store, KeyRange::span(key(*from), key(*to)), &mut now).await,
        Step::Txn(first, version, second) => txn(store, &mut now, next, (*first, *version, *second)).await,
        Step::Compact(part) => compact(store, model, *part).await,
        Step::Reopen => {}
    }
    if now != before {
        model.states.push(now);
    }
}

async fn delete(store: &Store, range: KeyRange, now: &mut BTreeMap<Bytes, KeyValue>) {
    let gone: Vec<KeyValue> = now.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
    let (deleted, _) = store.delete(DeleteRequest { range, prev_kv: true }).await.unwrap();
    assert_eq!((deleted.deleted, &deleted.previous), (gone.len(), &gone));
    gone.iter().for_each(|kv| drop(now.remove(&kv.key)));
}

async fn txn(
    store: &Store,
    now: &mut BTreeMap<Bytes, KeyValue>,
    next: i64,
    (first, version, second): (u8, i64, u8),
) {
    let value = Bytes::from("txn");
    let mut puts = vec![Operation::Put(put_request(first, &value))];
    if first != second {
        puts.push(Operation::Put(put_request(second, &value)));
    }
    let other = DeleteRequest { range: KeyRange::key(key(second)), prev_kv: false };
    let condition = Compare {
        range: KeyRange::key(key(first)),
        target: Target::Version(version),
        comparison: Comparison::Equal,
    };
    let request =
        TxnRequest { compare: vec![condition], success: puts, failure: vec![Operation::Delete(other)] };
    let response = store.txn(request).await.unwrap();
    let holds = now.get(&key(first)).map_or(0, |kv| kv.version) == version;
    assert_eq!(response.succeeded, holds);
    if holds {
        Model::put(now, key(first), value.clone(), next);
        if first != second {
            Model::put(now, key(second), value, next);
        }
    } else {
        now.remove(&key(second));
    }
}

async fn compact(store: &Store, model: &mut Model, part: u8) {
    let revision = model.revision() * i64::from(part) / 255;
    let done = store.compact(revision).await;
    if revision > model.compacted {
        done.unwrap();
        model.compacted = revision;
    } else {
        assert!(matches!(done, Err(Error::Compacted { .. })));
    }
}

/// Every revision that can be read reads as the model says, and the others are refused.
fn same(store: &Store, model: &Model) {
    assert_eq!((store.revision(), store.compacted()), (model.revision(), model.compacted));
    for revision in 1..=model.revision() {
        let request = RangeRequest { revision, ..RangeRequest::new(KeyRange::prefix("k")) };
        let read = store.range(&request);
        if revision < model.compacted {
            assert!(matches!(read, Err(Error::Compacted { .. })));
        } else {
            let expected: Vec<KeyValue> = model.states[revision as usize].values().cloned().collect();
            assert_eq!(read.unwrap().kvs, expected, "at revision {revision}");
        }
    }
}

/// A watch from the last compaction on turns each state into the next one.
fn watch_tells_the_same(store: &Store, model: &Model) {
    let start = model.compacted.max(1) + 1;
    let mut watcher = store.watch(WatchRequest { range: KeyRange::prefix("k"), start });
    let mut state = model.states[start as usize - 1].clone();
    let mut at = start - 1;
    while let Some(batch) = watcher.poll().unwrap() {
        let WatchBatch::Events(events) = batch else { continue };
        for event in events {
            if event.kv.mod_revision > at {
                assert_eq!(event.kv.mod_revision, at + 1, "a revision is missing");
                assert_eq!(state, model.states[at as usize]);
                at += 1;
            }
            assert_eq!(event.previous.as_ref(), state.get(&event.kv.key));
            match event.deleted {
                true => state.remove(&event.kv.key),
                false => state.insert(event.kv.key.clone(), event.kv),
            };
        }
    }
    assert_eq!((at, state), (model.revision(), model.now()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_engine_is_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Some(open(dir.path()));
            let mut model = Model::new();
            for step in &steps {
                if let Step::Reopen = step {
                    drop(store.take());
                    store = Some(open(dir.path()));
                }
                let store = store.as_ref().unwrap();
                apply(store, &mut model, step).await;
            }
            let store = store.unwrap();
            same(&store, &model);
            watch_tells_the_same(&store, &model);
            drop(store);
            let store = open(dir.path());
            same(&store, &model);
            watch_tells_the_same(&store, &model);
        });
    }
}
