//! One suite for every store: in memory, and a real etcd on a loopback port.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt;

use super::etcd::{Access, Etcd};
use super::memory::Memory;
use super::store::{Event, Held, LeaseStore, StoreError};

const VALUE: &str = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#;

async fn suite(store: &dyn LeaseStore) {
    assert!(store.list().await.unwrap().records.is_empty());
    let start = store.list().await.unwrap().revision;

    let first = store.create("10.5.1.0-24", VALUE, 60).await.unwrap().unwrap();
    assert!(store.create("10.5.1.0-24", VALUE, 60).await.unwrap().is_none(), "created once");
    assert!(first.lease_id != 0);
    let renewed = store.renew("10.5.1.0-24", VALUE, first.mod_revision, 60).await.unwrap().unwrap();
    assert!(
        store.renew("10.5.1.0-24", VALUE, first.mod_revision, 60).await.unwrap().is_none(),
        "seen is old"
    );
    assert!(store.renew("10.5.9.0-24", VALUE, 1, 60).await.unwrap().is_none(), "nothing is there");

    let listed = store.list().await.unwrap();
    assert_eq!((listed.records.len(), listed.records[0].mod_revision), (1, renewed.mod_revision));
    assert_eq!(
        (listed.records[0].lease_id, &listed.records[0].value[..]),
        (renewed.lease_id, VALUE.as_bytes())
    );
    store.forget(first.lease_id).await;
    assert_eq!(store.list().await.unwrap().records.len(), 1, "what is forgotten holds nothing any more");
    let marked = store.mark("10.5.1.0-24", VALUE, renewed.mod_revision).await.unwrap().unwrap();
    assert!(store.mark("10.5.1.0-24", VALUE, renewed.mod_revision).await.unwrap().is_none(), "seen is old");
    assert!(store.mark("10.5.9.0-24", VALUE, marked).await.unwrap().is_none(), "nothing is there");
    let record = store.list().await.unwrap().records.remove(0);
    assert_eq!((record.mod_revision, record.lease_id), (marked, renewed.lease_id), "it ends as before");
    let renewed = Held { mod_revision: marked, ..renewed };
    let reserved = store.renew("10.5.1.0-24", VALUE, renewed.mod_revision, 0).await.unwrap().unwrap();
    assert_eq!((reserved.lease_id, store.list().await.unwrap().records[0].lease_id), (0, 0));

    let mut events = store.watch(start).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let next =
            tokio::time::timeout(Duration::from_secs(5), events.next()).await.expect("the watch is silent");
        seen.extend(next.unwrap().unwrap().0);
    }
    let created = |event: &Event| matches!(event, Event::Put(r) if r.create_revision == first.mod_revision);
    assert!(seen.iter().all(created), "renewed it is as old as before");
    let revisions = seen.iter().map(|event| if let Event::Put(r) = event { r.mod_revision } else { 0 });
    assert_eq!(
        revisions.collect::<Vec<_>>(),
        [first.mod_revision, marked - 1, marked, reserved.mod_revision]
    );

    let (old, new) = ("10.5.1.0-24", "10.5.1.0-24&fc00:0:0:1::-64");
    let replace = async |old, seen| store.replace((old, seen), new, VALUE, 60).await.unwrap();
    assert!(replace(old, renewed.mod_revision).await.is_none(), "seen is old");
    let replaced = replace(old, reserved.mod_revision).await.unwrap();
    let listed = store.list().await.unwrap().records;
    assert_eq!((listed.len(), listed[0].key.as_str()), (1, new));
    assert_eq!((listed[0].create_revision, listed[0].lease_id), (replaced.mod_revision, replaced.lease_id));
    assert!(replace(new, replaced.mod_revision).await.is_none(), "the new key is there");
    store.forget(replaced.lease_id).await;
    assert!(store.list().await.unwrap().records.is_empty(), "the record goes with its lease");
}

#[tokio::test]
async fn in_memory() {
    let store = Memory::default();
    suite(&store).await;
    store.delete("10.5.1.0-24");
    store.compact();
    assert!(matches!(store.watch(0).await, Err(StoreError::Compacted)));
}

/// An etcd of the test's own, ended with it.
struct Server(Child, #[allow(dead_code)] tempfile::TempDir, String);

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let child = Command::new("etcd")
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
            ])
            .args([
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &format!("default={peer}"),
                "--data-dir",
            ])
            .arg(dir.path())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("etcd is missing (package etcd-server)");
        Server(child, dir, client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn in_etcd() {
    let server = Server::start();
    let access = Access {
        endpoints: vec![server.2.clone()],
        prefix: "/coreos.com/network".to_owned(),
        ..Access::default()
    };
    let store = Etcd::connect(&access).await.unwrap();
    let ready = async {
        while store.config().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.expect("etcd does not start");
    assert_eq!(store.config().await.unwrap(), None);
    suite(&store).await;
    assert!(store.create("10.5.2.0-24", VALUE, 2).await.unwrap().is_some());
    let revision = store.list().await.unwrap().revision;
    let mut events = store.watch(revision).await.unwrap();
    let mut ended = Vec::new();
    while ended.is_empty() {
        // The answer to the watch's own creation has no events.
        ended =
            tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap().unwrap().unwrap().0;
    }
    assert_eq!(ended, [Event::Delete("10.5.2.0-24".to_owned())], "it ends by itself");
}
