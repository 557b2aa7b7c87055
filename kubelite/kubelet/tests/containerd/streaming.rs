//! Logs, exec, attach and port forwarding through the kubelet's own API, asked by kubectl and by plain clients.

use crate::api::Api;
use crate::front::Front;
use crate::node::{Node, wait};
use crate::tls::{API_SERVER, Authority};
use crate::{pod, ready, sh};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The status line and the text of an answer that ends its connection.
async fn ask(
    authority: &Authority,
    kubelet: SocketAddr,
    client: Option<(&str, &str)>,
    path: &str,
    headers: &str,
) -> (u16, String) {
    let mut stream = authority.connect(kubelet, client).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: kubelet\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Without a goodbye of TLS the answer counts as well.
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_streams() {
    let node = Node::start();
    let api = Api::new();
    let authority = Authority::new();
    let kubelet = free_address().await;
    let (shutdown, task) = node.kubelet_at(&api, &authority, kubelet);
    let script = "for i in 1 2 3; do echo line $i; done; read answer; echo got $answer; sleep 1000";
    let mut container = sh("c", script);
    container["stdin"] = true.into();
    let (path, object) = pod("web", json!({ "containers": [container] }));
    api.put(&path, object);
    wait(&api, &path, "ready", ready).await;

    who_may_ask(&authority, kubelet).await;
    let front = Front::start(&api, &authority, kubelet).await;
    let home = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str], input: &[u8]| {
        let mut child = front.kubectl(home.path(), arguments);
        let mut stdin = child.stdin.take().unwrap();
        let write = async {
            stdin.write_all(input).await.unwrap();
            drop(stdin);
        };
        let (output, ()) = tokio::join!(tokio::time::timeout(LIMIT, child.wait_with_output()), write);
        let output = output.unwrap_or_else(|_| panic!("kubectl {arguments:?} does not end")).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), output.stdout, text)
    };

    let (code, out, error) =
        run(&["exec", "web", "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"], b"").await;
    assert_eq!((code, out.as_slice()), (Some(7), &b"out\n"[..]), "{error}");
    assert!(error.contains("err\n"), "{error}");

    let input: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let (code, out, error) = run(&["exec", "-i", "web", "--", "/bin/sh", "-c", "cat"], &input).await;
    assert!(code == Some(0) && out == input, "{} bytes came back: {error}", out.len());

    let (code, out, error) = run(&["logs", "web", "--tail=2"], b"").await;
    assert_eq!((code, String::from_utf8_lossy(&out).as_ref()), (Some(0), "line 2\nline 3\n"), "{error}");

    // Attach answers what the container reads; following its log shows that it did.
    let mut follow = front.kubectl(home.path(), &["logs", "-f", "web"]);
    let mut attach = front.kubectl(home.path(), &["attach", "-i", "web"]);
    attach.stdin.as_mut().unwrap().write_all(b"forty-two\n").await.unwrap();
    let mut seen = String::new();
    let mut log = follow.stdout.take().unwrap();
    while !seen.contains("got forty-two\n") {
        let mut block = [0; 1024];
        let count = tokio::time::timeout(LIMIT, log.read(&mut block)).await.expect(&seen).unwrap();
        assert_ne!(count, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&block[..count]));
    }
    drop((follow, attach));

    for websockets in ["true", "false"] {
        forwarding(&front, home.path(), websockets).await;
    }
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

async fn who_may_ask(authority: &Authority, kubelet: SocketAddr) {
    let close = "Connection: close\r\n";
    let masters = Some(("admin", "system:masters"));
    let server = Some((API_SERVER, ""));
    let cases = [
        (None, "/healthz", close, 401, "client certificate"),
        (Some(("somebody", "devs")), "/healthz", close, 403, "somebody"),
        (masters, "/healthz", close, 200, "ok"),
        (server, "/pods", close, 200, "\"name\":\"web\""),
        (server, "/stats/summary", close, 200, "usageCoreNanoSeconds"),
        (server, "/nothing", close, 404, "/nothing"),
        (server, "/containerLogs/default/none/c", close, 404, "default/none"),
        (server, "/containerLogs/default/web/c?previous=true", close, 400, "previous terminated container"),
        (server, "/containerLogs/default/web/c?tailLines=x", close, 400, "tailLines"),
        (server, "/containerLogs/default/web/c?limitBytes=6", close, 200, "line 1"),
        (server, "/exec/default/web/c?command=id&output=1", close, 400, "upgrade"),
        (server, "/exec/default/web/c?output=1", close, 400, "command"),
        (
            server,
            "/exec/default/web/c?command=id&output=1",
            "Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v6.channel.k8s.io\r\n",
            400,
            "SPDY/3.1",
        ),
    ];
    for (client, path, headers, code, text) in cases {
        let (got, answer) = ask(authority, kubelet, client, path, headers).await;
        assert!(got == code && answer.contains(text), "{client:?} {path}: {answer}");
    }
}

/// An address that was free a moment ago.
pub(crate) async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// The pod is in the host's network, so a port of this test is one of the pod's.
async fn forwarding(front: &Front, home: &std::path::Path, websockets: &str) {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.unwrap();
        let mut bytes = vec![0; 300_000];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let local = free_address().await;
    let ports = format!("{}:{port}", local.port());
    // As the environment would say it: kubectl is started without ours.
    let mut kubectl = front.kubectl_with(
        home,
        &["port-forward", "pod/web", &ports],
        ("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets),
    );
    let mut said = [0; 256];
    let count = tokio::time::timeout(LIMIT, kubectl.stdout.as_mut().unwrap().read(&mut said)).await;
    let count = count.expect("kubectl port-forward says nothing").unwrap();
    if count == 0 {
        let mut error = String::new();
        kubectl.stderr.take().unwrap().read_to_string(&mut error).await.unwrap();
        panic!("port-forward with websockets={websockets}: {error}");
    }
    let mut stream = TcpStream::connect(local).await.unwrap();
    let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 249) as u8).collect();
    let mut got = vec![0; sent.len()];
    let (mut from, mut to) = stream.split();
    let both = async { tokio::try_join!(to.write_all(&sent), from.read_exact(&mut got)).map(drop) };
    tokio::time::timeout(LIMIT, both).await.expect("the echo does not come").unwrap();
    assert!(got == sent, "websockets={websockets}");
    server.await.unwrap();
}
