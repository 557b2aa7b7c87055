//! What every storage must do. One suite, run by each implementation; a storage is never tested by anything else.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use super::{Event, KeyValue, ListOptions, Revision, StorageError, StorageHandle, Watch, WatchItem};

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

type Case = fn(StorageHandle) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Each case works below a prefix of its own, so all of them can share one storage.
pub(super) async fn run(storage: StorageHandle) {
    let cases: [(&str, Case); 13] = [
        ("create", |s| Box::pin(create(s))),
        ("update", |s| Box::pin(update(s))),
        ("delete", |s| Box::pin(delete(s))),
        ("list pages", |s| Box::pin(list_pages(s))),
        ("list at a revision", |s| Box::pin(list_at_revision(s))),
        ("prefixes", |s| Box::pin(prefixes(s))),
        ("watch order", |s| Box::pin(watch_order(s))),
        ("watch from the past", |s| Box::pin(watch_from_the_past(s))),
        ("watch only new", |s| Box::pin(watch_only_new(s))),
        ("slow watcher", |s| Box::pin(slow_watcher(s))),
        ("lease", |s| Box::pin(lease(s))),
        ("concurrent writers", |s| Box::pin(concurrent_writers(s))),
        // Last, as the others need the history.
        ("compaction", |s| Box::pin(compaction(s))),
    ];
    for (name, case) in cases {
        println!("case: {name}");
        case(storage.clone()).await;
    }
}

fn text(kv: &KeyValue) -> &str {
    std::str::from_utf8(&kv.value).unwrap()
}

fn names(items: &[KeyValue]) -> Vec<&str> {
    items.iter().map(|kv| kv.key.rsplit('/').next().unwrap()).collect()
}

/// Reads from a watch until `count` events came.
async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut all = Vec::new();
    while all.len() < count {
        let item = tokio::time::timeout(PATIENCE, watch.next()).await.expect("no event in time");
        if let WatchItem::Events(events) = item.expect("the watch ended").expect("the watch failed") {
            all.extend(events);
        }
    }
    assert_eq!(all.len(), count, "more events than expected: {all:?}");
    all
}

async fn create(storage: StorageHandle) {
    let key = "/create/a";
    let (absent, before) = storage.get(key).await.unwrap();
    assert_eq!(absent, None);
    let revision = storage.create(key, Bytes::from("1"), None).await.unwrap();
    assert!(revision > before);
    let (kv, at) = storage.get(key).await.unwrap();
    let kv = kv.unwrap();
    assert_eq!((text(&kv), kv.create_revision, kv.mod_revision), ("1", revision, revision));
    assert!(at >= revision);
    let again = storage.create(key, Bytes::from("2"), None).await;
    assert!(matches!(again, Err(StorageError::Exists(name)) if name == key));
    assert_eq!(text(&storage.get(key).await.unwrap().0.unwrap()), "1");
}

async fn update(storage: StorageHandle) {
    let key = "/update/a";
    let created = storage.create(key, Bytes::from("1"), None).await.unwrap();
    let updated = storage.update(key, Bytes::from("2"), created).await.unwrap();
    assert!(updated > created);
    let stale = storage.update(key, Bytes::from("3"), created).await;
    let Err(StorageError::Conflict { current: Some(current), .. }) = stale else { panic!("{stale:?}") };
    assert_eq!((text(&current), current.create_revision, current.mod_revision), ("2", created, updated));
    for expected in [0, 7] {
        let absent = storage.update("/update/none", Bytes::from("1"), expected).await;
        assert!(matches!(absent, Err(StorageError::Conflict { current: None, .. })), "{absent:?}");
    }
}

async fn delete(storage: StorageHandle) {
    let key = "/delete/a";
    let created = storage.create(key, Bytes::from("1"), None).await.unwrap();
    let stale = storage.delete(key, created - 1).await;
    assert!(matches!(stale, Err(StorageError::Conflict { current: Some(_), .. })), "{stale:?}");
    let deleted = storage.delete(key, created).await.unwrap();
    assert!(deleted > created);
    assert_eq!(storage.get(key).await.unwrap().0, None);
    for expected in [0, created] {
        let gone = storage.delete(key, expected).await;
        assert!(matches!(gone, Err(StorageError::Conflict { current: None, .. })), "{gone:?}");
    }
    let again = storage.create(key, Bytes::from("2"), None).await.unwrap();
    assert_eq!(storage.get(key).await.unwrap().0.unwrap().create_revision, again);
}

async fn list_pages(storage: StorageHandle) {
    for index in 0..7 {
        storage.create(&format!("/pages/{index}"), Bytes::from("x"), None).await.unwrap();
    }
    let first = ListOptions { limit: 3, ..ListOptions::default() };
    let first = storage.list("/pages/", first).await.unwrap();
    assert_eq!((names(&first.items), first.remaining), (vec!["0", "1", "2"], 4));
    // What happens between two pages is not seen by the second one.
    storage.create("/pages/4a", Bytes::from("x"), None).await.unwrap();
    let next = |after: &str| ListOptions {
        revision: first.revision,
        limit: 3,
        after: Some(format!("/pages/{after}")),
    };
    let second = storage.list("/pages/", next("2")).await.unwrap();
    assert_eq!((names(&second.items), second.remaining), (vec!["3", "4", "5"], 1));
    assert_eq!(second.revision, first.revision);
    let third = storage.list("/pages/", next("5")).await.unwrap();
    assert_eq!((names(&third.items), third.remaining), (vec!["6"], 0));
    assert!(storage.list("/pages/", next("6")).await.unwrap().items.is_empty());
}

async fn list_at_revision(storage: StorageHandle) {
    let created = storage.create("/at/a", Bytes::from("1"), None).await.unwrap();
    let updated = storage.update("/at/a", Bytes::from("2"), created).await.unwrap();
    storage.delete("/at/a", updated).await.unwrap();
    for (revision, expected) in [(created, Some("1")), (updated, Some("2")), (0, None)] {
        let page = storage.list("/at/", ListOptions { revision, ..ListOptions::default() }).await.unwrap();
        assert_eq!(page.items.first().map(text), expected, "at revision {revision}");
    }
    let future = ListOptions { revision: updated + 1_000_000, ..ListOptions::default() };
    assert!(matches!(storage.list("/at/", future).await, Err(StorageError::Compacted { .. })));
}

async fn prefixes(storage: StorageHandle) {
    let mut watch = storage.watch("/prefix/a/", 0).await.unwrap();
    for key in ["/prefix/a", "/prefix/a0", "/prefix/aa/x", "/prefix/a/x", "/prefix/b/x"] {
        storage.create(key, Bytes::from("1"), None).await.unwrap();
    }
    let page = storage.list("/prefix/a/", ListOptions::default()).await.unwrap();
    assert_eq!(names(&page.items), ["x"]);
    assert!(
        matches!(&events(&mut watch, 1).await[..], [Event::Put { current, .. }] if current.key == "/prefix/a/x")
    );
}

async fn watch_order(storage: StorageHandle) {
    let mut watch = storage.watch("/order/", 0).await.unwrap();
    let created = storage.create("/order/a", Bytes::from("1"), None).await.unwrap();
    let updated = storage.update("/order/a", Bytes::from("2"), created).await.unwrap();
    let deleted = storage.delete("/order/a", updated).await.unwrap();
    let events = events(&mut watch, 3).await;
    assert_eq!(events.iter().map(Event::revision).collect::<Vec<_>>(), [created, updated, deleted]);
    assert!(matches!(&events[0], Event::Put { current, previous: None } if text(current) == "1"));
    assert!(matches!(&events[1], Event::Put { current, previous: Some(previous) }
        if text(current) == "2" && text(previous) == "1"));
    assert!(matches!(&events[2], Event::Delete { key, previous: Some(previous), .. }
        if key == "/order/a" && text(previous) == "2"));
}

async fn watch_from_the_past(storage: StorageHandle) {
    let first = storage.create("/past/a", Bytes::from("1"), None).await.unwrap();
    let second = storage.create("/past/b", Bytes::from("1"), None).await.unwrap();
    let third = storage.update("/past/a", Bytes::from("2"), first).await.unwrap();
    for (from, expected) in [(first, vec![first, second, third]), (second, vec![second, third])] {
        let mut watch = storage.watch("/past/", from).await.unwrap();
        let seen = events(&mut watch, expected.len()).await;
        assert_eq!(seen.iter().map(Event::revision).collect::<Vec<_>>(), expected);
    }
}

async fn watch_only_new(storage: StorageHandle) {
    storage.create("/new/a", Bytes::from("1"), None).await.unwrap();
    let mut watch = storage.watch("/new/", 0).await.unwrap();
    let second = storage.create("/new/b", Bytes::from("1"), None).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].revision(), second);
}

async fn slow_watcher(storage: StorageHandle) {
    let mut slow = storage.watch("/slow/", 0).await.unwrap();
    let mut revision = storage.create("/slow/a", Bytes::from("0"), None).await.unwrap();
    let mut written = vec![revision];
    for index in 1..1500 {
        revision = storage.update("/slow/a", Bytes::from(index.to_string()), revision).await.unwrap();
        written.push(revision);
    }
    let seen = events(&mut slow, 1500).await;
    assert_eq!(seen.iter().map(Event::revision).collect::<Vec<_>>(), written);
}

async fn lease(storage: StorageHandle) {
    let mut watch = storage.watch("/lease/", 0).await.unwrap();
    let lease = storage.grant(1).await.unwrap();
    let a = storage.create("/lease/a", Bytes::from("1"), Some(lease)).await.unwrap();
    storage.create("/lease/b", Bytes::from("1"), Some(lease)).await.unwrap();
    // An update keeps the lease.
    storage.update("/lease/a", Bytes::from("2"), a).await.unwrap();
    storage.create("/lease/stays", Bytes::from("1"), None).await.unwrap();
    let events = events(&mut watch, 6).await;
    let gone: Vec<&Event> = events.iter().filter(|event| matches!(event, Event::Delete { .. })).collect();
    assert_eq!(gone.len(), 2);
    assert_eq!(gone[0].revision(), gone[1].revision(), "the keys of a lease go in one revision");
    let left = storage.list("/lease/", ListOptions::default()).await.unwrap();
    assert_eq!(names(&left.items), ["stays"]);
    let no_lease = storage.create("/lease/c", Bytes::from("1"), Some(lease)).await;
    assert!(matches!(no_lease, Err(StorageError::Unavailable(_))), "{no_lease:?}");
}

/// Many writers increment and delete few keys. Replaying the revisions that were acknowledged must give exactly the
/// values that stand there, and the watch must tell the same story.
async fn concurrent_writers(storage: StorageHandle) {
    const WRITERS: usize = 16;
    const WRITES: usize = 40;
    let mut watch = storage.watch("/many/", 0).await.unwrap();
    let storage = Arc::new(storage);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let storage = storage.clone();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for write in 0..WRITES {
                    acknowledged.push(write_once(&storage, writer, write).await);
                }
                acknowledged
            })
        })
        .collect();
    let mut history: BTreeMap<Revision, (String, Option<String>)> = BTreeMap::new();
    for writer in writers {
        for (revision, change) in writer.await.unwrap() {
            assert!(history.insert(revision, change).is_none(), "revision {revision} was given twice");
        }
    }
    assert_eq!(history.len(), WRITERS * WRITES);
    let mut model = BTreeMap::new();
    for (key, value) in history.values() {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
    let page = storage.list("/many/", ListOptions::default()).await.unwrap();
    let stands: BTreeMap<String, String> =
        page.items.iter().map(|kv| (kv.key.clone(), text(kv).to_owned())).collect();
    assert_eq!(stands, model);
    let watched = events(&mut watch, history.len()).await.into_iter().map(|event| match event {
        Event::Put { current, .. } => {
            (current.mod_revision, (current.key.clone(), Some(text(&current).to_owned())))
        }
        Event::Delete { key, revision, .. } => (revision, (key, None)),
    });
    assert!(watched.eq(history), "the watch tells another story than the acknowledgements");
}

/// One acknowledged change of one of three keys: its revision, the key, and the value (none: deleted).
async fn write_once(
    storage: &StorageHandle,
    writer: usize,
    write: usize,
) -> (Revision, (String, Option<String>)) {
    let key = format!("/many/{}", (writer + write) % 3);
    let value = format!("{writer}.{write}");
    loop {
        let (current, _) = storage.get(&key).await.unwrap();
        let done = match current {
            None => (storage.create(&key, value.clone().into(), None).await, Some(value.clone())),
            Some(kv) if write % 5 == 4 => (storage.delete(&key, kv.mod_revision).await, None),
            Some(kv) => {
                (storage.update(&key, value.clone().into(), kv.mod_revision).await, Some(value.clone()))
            }
        };
        match done {
            (Ok(revision), value) => return (revision, (key, value)),
            (Err(StorageError::Exists(_) | StorageError::Conflict { .. }), _) => {}
            (Err(error), _) => panic!("{error}"),
        }
    }
}

async fn compaction(storage: StorageHandle) {
    let first = storage.create("/compact/a", Bytes::from("1"), None).await.unwrap();
    let second = storage.update("/compact/a", Bytes::from("2"), first).await.unwrap();
    let third = storage.update("/compact/a", Bytes::from("3"), second).await.unwrap();
    storage.compact(third).await.unwrap();
    let old = ListOptions { revision: second, ..ListOptions::default() };
    let listed = storage.list("/compact/", old).await;
    assert!(matches!(listed, Err(StorageError::Compacted { .. })), "{listed:?}");
    let watched = match storage.watch("/compact/", first).await {
        Err(error) => Err(error),
        Ok(mut watch) => loop {
            match watch.next().await.expect("the watch ended without a reason") {
                Ok(WatchItem::Progress(_)) => {}
                Ok(WatchItem::Events(events)) => break Ok(events),
                Err(error) => break Err(error),
            }
        },
    };
    assert!(matches!(watched, Err(StorageError::Compacted { .. })), "{watched:?}");
    let page = storage.list("/compact/", ListOptions::default()).await.unwrap();
    assert_eq!(text(&page.items[0]), "3");
    let mut watch = storage.watch("/compact/", third + 1).await.unwrap();
    let fourth = storage.update("/compact/a", Bytes::from("4"), third).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].revision(), fourth);
}
