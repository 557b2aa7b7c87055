//! The etcd storage against /usr/bin/etcd (etcd-server) and against our own gRPC service.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::super::{Event, StorageHandle, WatchItem, conformance};
use super::*;

/// A real etcd on ports of its own; it ends with the value. It needs /usr/bin/etcd (etcd-server).
struct RealEtcd {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl RealEtcd {
    fn start() -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, dir) = (free(), tempfile::tempdir().unwrap());
        RealEtcd { child: RealEtcd::spawn(port, free(), &dir), port, dir }
    }

    fn spawn(port: u16, peer_port: u16, dir: &tempfile::TempDir) -> Child {
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        Command::new("/usr/bin/etcd")
            .args(["--name=test", "--log-level=error", &format!("--initial-cluster=test={peer}")])
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--data-dir={}", dir.path().display()))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot start /usr/bin/etcd: install etcd-server")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its old port and data.
    fn restart(&mut self) {
        let peer_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.child = RealEtcd::spawn(self.port, peer_port, &self.dir);
    }

    async fn connect(&self) -> Etcd {
        let endpoints = vec![format!("http://127.0.0.1:{}", self.port)];
        for _ in 0..200 {
            let config = EtcdConfig { endpoints: endpoints.clone(), ..EtcdConfig::default() };
            if let Ok(etcd) = Etcd::connect(config).await {
                return etcd;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer on port {}", self.port);
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = RealEtcd::start();
    let storage = server.connect().await;
    conformance::run(StorageHandle(Arc::new(storage))).await;
}

/// The same adapter against our own service: what a second server would do that shares an embedded store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_over_the_embedded_service() {
    use kubelite_store::{Store, grpc};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = vec![format!("http://{}", listener.local_addr().unwrap())];
    let stop = tokio_util::sync::CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let store = Store::memory().unwrap();
    tokio::spawn(grpc::serve(store, listener, None, grpc::Access::Everyone, stop));
    let storage = Etcd::connect(EtcdConfig { endpoints, ..EtcdConfig::default() }).await.unwrap();
    assert!(storage.reliable_progress);
    let mut watch = storage.watch("/progress/", 0).await.unwrap();
    let created = storage.create("/elsewhere", Bytes::from("1"), None).await.unwrap();
    let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert!(matches!(item, Some(Ok(WatchItem::Progress(revision))) if revision <= created), "{item:?}");
    conformance::run(StorageHandle(Arc::new(storage))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_a_restart_of_etcd() {
    let mut server = RealEtcd::start();
    let storage = server.connect().await;
    let mut watch = storage.watch("/survive/", 0).await.unwrap();
    let first = storage.create("/survive/a", Bytes::from("1"), None).await.unwrap();
    server.kill();
    let down = storage.create("/survive/b", Bytes::from("1"), None).await;
    assert!(matches!(down, Err(StorageError::Unavailable(_))), "{down:?}");
    server.restart();
    let again = server.connect().await;
    let second = again.create("/survive/c", Bytes::from("1"), None).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let item = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap();
        if let WatchItem::Events(events) = item.unwrap().unwrap() {
            seen.extend(events.iter().map(Event::revision));
        }
    }
    assert_eq!(seen, [first, second]);
}

#[test]
fn only_repaired_versions_are_believed() {
    for version in ["3.4.25", "3.5.8", "3.5.21", "3.6.0", "3.7.2", "3.4.25+kubelite-0.1.0", "4.0.0"] {
        assert!(answers_progress_in_order(version), "{version}");
    }
    for version in ["3.4.23", "3.5.7", "3.3.99", "2.3.8", "", "x"] {
        assert!(!answers_progress_in_order(version), "{version}");
    }
}
