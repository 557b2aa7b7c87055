//! Debian's etcdctl against the embedded store, with and without TLS. It needs /usr/bin/etcdctl (etcd-client).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use kubelite_store::grpc::{self, Access, Tls};
use kubelite_store::{Options, Store};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

struct Server {
    address: SocketAddr,
    store: Store,
    tls: Option<tempfile::TempDir>,
    _data: tempfile::TempDir,
    _stop: DropGuard,
}

impl Server {
    async fn start(tls: Option<(tempfile::TempDir, Tls)>, access: Access) -> Self {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path(), Options::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (files, config) = tls.unzip();
        let serving = grpc::serve(store.clone(), listener, config, access, stop.clone());
        tokio::spawn(async move { serving.await.unwrap() });
        Server { address, store, tls: files, _data: data, _stop: stop.drop_guard() }
    }

    fn etcdctl(&self, user: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/etcdctl");
        // Without a scheme: for some commands this etcdctl would send `http://…` as the HTTP/2 authority, which is
        // malformed, and which the HTTP/2 library refuses.
        let scheme = if self.tls.is_some() { "https://" } else { "" };
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={scheme}{}", self.address));
        if let Some(files) = &self.tls {
            let file = |name: &str| files.path().join(name).display().to_string();
            command.arg(format!("--cacert={}", file("ca.pem")));
            command.arg(format!("--cert={}", file(&format!("{user}.pem"))));
            command.arg(format!("--key={}", file(&format!("{user}.key"))));
        }
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, user: &str, arguments: &[&str]) -> Output {
        let run = self.etcdctl(user, arguments).output();
        tokio::time::timeout(Duration::from_secs(20), run).await.expect("etcdctl hangs").unwrap()
    }

    /// The standard output of a call that must succeed.
    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run("root", arguments).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "etcdctl {arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// The standard error of a call that must fail.
    async fn fails(&self, user: &str, arguments: &[&str]) -> String {
        let output = self.run(user, arguments).await;
        assert!(!output.status.success(), "etcdctl {arguments:?} should fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    async fn txn(&self, script: &str) -> String {
        let mut command = self.etcdctl("root", &["txn", "--interactive"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, script.as_bytes()).await.unwrap();
        drop(stdin);
        String::from_utf8(child.wait_with_output().await.unwrap().stdout).unwrap()
    }

    /// A running `etcdctl watch`, and its lines.
    async fn watch(
        &self,
        arguments: &[&str],
    ) -> (tokio::process::Child, tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) {
        let mut arguments = arguments.to_vec();
        arguments.insert(0, "watch");
        let mut child = self.etcdctl("root", &arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while self.store.status().watchers == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (child, lines)
    }
}

async fn line(lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) -> String {
    let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await;
    line.expect("no line from etcdctl watch").unwrap().expect("etcdctl watch ended")
}

/// A certificate authority, a server's certificate and one per client, as files and as configuration.
fn certificates(clients: &[&str]) -> (tempfile::TempDir, Tls) {
    let dir = tempfile::tempdir().unwrap();
    let mut ca = CertificateParams::new([]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "test authority");
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let sign = |name: &str, usage: ExtendedKeyUsagePurpose| {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let write = |name: String, content: &str| {
        std::fs::write(dir.path().join::<&Path>(name.as_ref()), content).unwrap();
    };
    write("ca.pem".to_owned(), &ca_pem);
    for client in clients {
        let (certificate, key) = sign(client, ExtendedKeyUsagePurpose::ClientAuth);
        write(format!("{client}.pem"), &certificate);
        write(format!("{client}.key"), &key);
    }
    let (certificate, key) = sign("server", ExtendedKeyUsagePurpose::ServerAuth);
    let tls = Tls { certificate: certificate.into(), key: key.into(), client_ca: ca_pem.into() };
    (dir, tls)
}

async fn every_command_works(server: &Server) {
    // Keys.
    assert_eq!(server.ok(&["put", "/a", "1"]).await, "OK\n");
    assert_eq!(server.ok(&["put", "/a", "2", "--prev-kv"]).await, "OK\n/a\n1\n");
    server.ok(&["put", "/b", "3"]).await;
    assert_eq!(server.ok(&["get", "/a"]).await, "/a\n2\n");
    assert_eq!(server.ok(&["get", "/", "--prefix", "--keys-only", "--order=DESCEND"]).await, "/b\n\n/a\n\n");
    assert_eq!(server.ok(&["get", "/a", "--rev=2"]).await, "/a\n1\n");
    assert_eq!(server.ok(&["get", "/", "--prefix", "--limit=1", "--print-value-only"]).await, "2\n");
    assert!(server.ok(&["get", "", "--prefix", "--write-out=fields"]).await.contains("\"Count\" : 2"));
    assert_eq!(server.ok(&["del", "/b", "--prev-kv"]).await, "1\n/b\n3\n");
    // Transactions.
    let compared = server
        .txn("value(\"/a\") = \"2\"\nversion(\"/none\") = \"0\"\n\nput /t yes\nget /a\n\nput /t no\n\n")
        .await;
    assert!(compared.contains("SUCCESS"), "{compared}");
    assert_eq!(server.ok(&["get", "/t", "--print-value-only"]).await, "yes\n");
    let refused = server.txn("mod(\"/a\") > \"1000\"\n\nput /t yes\n\ndel /t\n\n").await;
    assert!(refused.contains("FAILURE"), "{refused}");
    assert_eq!(server.ok(&["get", "/t"]).await, "");
    // Leases.
    let granted = server.ok(&["lease", "grant", "60"]).await;
    let id = granted.split_whitespace().nth(1).unwrap().to_owned();
    server.ok(&["put", "/leased", "x", &format!("--lease={id}")]).await;
    let left = server.ok(&["lease", "timetolive", &id, "--keys"]).await;
    assert!(left.contains("granted with TTL(60s)") && left.contains("[/leased]"), "{left}");
    assert!(server.ok(&["lease", "keep-alive", "--once", &id]).await.contains("TTL(60)"));
    assert!(server.ok(&["lease", "list"]).await.contains(&id));
    server.ok(&["lease", "revoke", &id]).await;
    assert_eq!(server.ok(&["get", "/leased"]).await, "");
    assert!(server.fails("root", &["lease", "revoke", &id]).await.contains("requested lease not found"));
    assert!(
        server.fails("root", &["put", "/x", "1", "--lease=123"]).await.contains("requested lease not found")
    );
    // Watches: new events, the past, and a compacted past.
    let (_child, mut lines) = server.watch(&["/w/", "--prefix", "--prev-kv"]).await;
    server.ok(&["put", "/w/1", "one"]).await;
    server.ok(&["del", "/w/1"]).await;
    for expected in ["PUT", "/w/1", "one", "DELETE", "/w/1", "one", "/w/1", ""] {
        assert_eq!(line(&mut lines).await, expected);
    }
    let (_child, mut lines) = server.watch(&["/a", "--rev=2"]).await;
    for expected in ["PUT", "/a", "1", "PUT", "/a", "2"] {
        assert_eq!(line(&mut lines).await, expected);
    }
    let revision = server.store.revision();
    assert_eq!(
        server.ok(&["compaction", &revision.to_string()]).await,
        format!("compacted revision {revision}\n")
    );
    let compacted = server.fails("root", &["get", "/a", "--rev=2"]).await;
    assert!(compacted.contains("required revision has been compacted"), "{compacted}");
    let compacted = server.fails("root", &["watch", "/a", "--rev=2"]).await;
    assert!(compacted.contains("required revision has been compacted"), "{compacted}");
    // The server itself.
    assert!(server.ok(&["endpoint", "status"]).await.contains("3.4.25+kubelite"));
    assert!(server.ok(&["endpoint", "hashkv"]).await.contains(&server.address.to_string()));
    assert!(server.ok(&["member", "list"]).await.contains("started"));
    assert!(server.ok(&["defrag"]).await.contains("Finished"));
    assert_eq!(server.ok(&["alarm", "list"]).await, "");
    assert!(
        server
            .fails("root", &["member", "add", "x", "--peer-urls=http://127.0.0.1:1"])
            .await
            .contains("exactly one member")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_without_tls() {
    let server = Server::start(None, Access::Everyone).await;
    every_command_works(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_with_tls() {
    let rules = [("root", &[""][..]), ("flannel", &["/coreos.com/network/"][..])];
    let tls = certificates(&["root", "flannel", "stranger"]);
    let server = Server::start(Some(tls), Access::by_common_name(rules)).await;
    every_command_works(&server).await;
    // A client sees its own prefix and nothing else.
    let own = server.run("flannel", &["put", "/coreos.com/network/config", "{}"]).await;
    assert!(own.status.success(), "{own:?}");
    for (user, arguments) in [
        ("flannel", &["get", "/registry/", "--prefix"][..]),
        ("flannel", &["put", "/coreos.com/other", "x"]),
        ("flannel", &["del", "", "--prefix"]),
        ("flannel", &["compaction", "2"]),
        ("flannel", &["watch", "/registry/", "--prefix"]),
        ("stranger", &["get", "/coreos.com/network/config"]),
    ] {
        let refused = server.fails(user, arguments).await;
        assert!(refused.contains("etcdserver: permission denied"), "{user} {arguments:?}: {refused}");
    }
}

#[tokio::test]
async fn plaintext_stays_on_loopback() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let store = Store::memory().unwrap();
    let served = grpc::serve(store, listener, None, Access::Everyone, CancellationToken::new()).await;
    assert!(matches!(served, Err(grpc::ServeError::Plaintext(_))));
}
