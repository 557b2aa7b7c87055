//! Logs and upgrades against a small TLS server that plays the kubelet.
#![allow(clippy::unwrap_used)] // helpers of tests, outside of test functions

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use common::{Authority, Memory};
use futures::StreamExt;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use kubelite_apiserver::auth::Objects;
use kubelite_apiserver::auth::authn::PeerIdentity;
use kubelite_apiserver::auth::chain::Chain;
use kubelite_apiserver::connect::tunnel::client_tls;
use kubelite_apiserver::connect::{Connector, NodeConnector};
use kubelite_apiserver::request::{RequestInfo, UserInfo};
use kubelite_apiserver::serve::{serve, tls_config};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

type Seen = Arc<Mutex<Vec<String>>>;

/// What the kubelet does: logs in two pieces, an echo behind exec, a refusal behind attach.
async fn kubelet(seen: Seen, mut request: Request) -> Response {
    let peer = request.extensions().get::<PeerIdentity>().map(|p| p.0.name.clone()).unwrap_or_default();
    let authorization = request.headers().contains_key("authorization");
    seen.lock().unwrap().push(format!("{peer} {} {authorization}", request.uri()));
    let path = request.uri().path().to_owned();
    if path.starts_with("/containerLogs/ns/p/a") {
        let pieces = futures::stream::unfold(0, |n| async move {
            tokio::time::sleep(Duration::from_millis(100 * n)).await;
            (n < 2).then(|| (Ok::<_, std::io::Error>(format!("line {n}\n")), n + 1))
        });
        return Response::new(Body::from_stream(pieces));
    }
    if path.starts_with("/containerLogs") {
        return Response::builder()
            .status(400)
            .body(Body::from("container \"b\" is waiting to start"))
            .unwrap();
    }
    if path.starts_with("/attach") {
        return Response::builder().status(403).body(Body::from("no attach here")).unwrap();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        let mut word = [0; 5];
        while io.read_exact(&mut word).await.is_ok() {
            word.reverse();
            io.write_all(&word).await.unwrap();
        }
    });
    let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    answer.header("connection", "upgrade").header("upgrade", "SPDY/3.1").body(Body::empty()).unwrap()
}

/// An address of this host that is not loopback (those are refused); nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("198.51.100.1:9").expect("this test needs an address of this host besides loopback");
    socket.local_addr().unwrap().ip()
}

struct World {
    front: SocketAddr,
    seen: Seen,
    _stop: tokio_util::sync::DropGuard,
}

/// A kubelet that is called `kubelet_name`, and the connector behind plain HTTP.
async fn world(kubelet_name: &str) -> World {
    let ca = Authority::new();
    let stop = CancellationToken::new();
    let seen = Seen::default();
    let ip = own_address();
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (certificate, key) = ca.sign("system:node:n1", "system:nodes", &[kubelet_name]);
    let tls = tls_config(&certificate, &key, &ca.pem).unwrap();
    let app = Router::new().fallback({
        let seen = seen.clone();
        move |request| kubelet(seen.clone(), request)
    });
    tokio::spawn(serve(listener, tls, app, stop.clone()));

    let node = json!({"metadata": {"name": "n1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": ip.to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    let pod = |name: &str, node: &str| {
        json!({"metadata": {"name": name, "namespace": "ns"},
               "spec": {"nodeName": node, "containers": [{"name": "a"}, {"name": "b"}]}})
    };
    let objects: Arc<dyn Objects> = Arc::new(Memory(vec![
        ("nodes".into(), Arc::new(node)),
        ("pods".into(), Arc::new(pod("p", "n1"))),
        ("pods".into(), Arc::new(pod("waiting", ""))),
    ]));
    let (certificate, key) = ca.sign("kube-apiserver-kubelet-client", "system:masters", &[]);
    let tls = client_tls(&ca.pem, &certificate, &key).unwrap();
    let authorizer = Arc::new(Chain::new(objects.clone()));
    let connector = Arc::new(NodeConnector::new(objects, authorizer, tls));
    let front = Router::new().fallback(move |request| front(connector.clone(), request));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let done = stop.clone();
    tokio::spawn(
        async move { axum::serve(listener, front).with_graceful_shutdown(done.cancelled_owned()).await },
    );
    World { front: address, seen, _stop: stop.drop_guard() }
}

/// In the place of the core: `/<resource>/<name>/<subresource>`, asked by root or by the user of a header.
async fn front(connector: Arc<NodeConnector>, mut request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(4, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let verb = if request.method() == http::Method::POST { "create" } else { "get" };
    let info = RequestInfo {
        is_resource: true,
        verb: verb.into(),
        resource: next(),
        name: next(),
        subresource: next(),
        namespace: "ns".into(),
        path: path.clone(),
        ..RequestInfo::default()
    };
    let user = if request.headers().contains_key("x-nobody") {
        UserInfo::new("nobody", &[])
    } else {
        UserInfo::new("root", &["system:masters"])
    };
    request.extensions_mut().insert(info);
    request.extensions_mut().insert(user);
    connector.connect(request).await
}

async fn get(world: &World, path: &str) -> (u16, String) {
    let stream = TcpStream::connect(world.front).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", "x").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let code = answer.status().as_u16();
    (code, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap())
}

fn message(body: &str) -> String {
    serde_json::from_str::<serde_json::Value>(body).unwrap()["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn logs_are_streamed_from_the_kubelet() {
    let world = world("n1").await;
    let (code, text) = get(&world, "/pods/p/log?container=a&follow=true&tailLines=5").await;
    assert_eq!((code, text.as_str()), (200, "line 0\nline 1\n"));
    let seen = world.seen.lock().unwrap().clone();
    assert_eq!(seen, ["kube-apiserver-kubelet-client /containerLogs/ns/p/a?follow=true&tailLines=5 false"]);
}

#[tokio::test]
async fn errors_in_upstreams_words() {
    let world = world("n1").await;
    let cases = [
        ("/pods/p/log", 400, "a container name must be specified for pod p, choose one of: [a b]"),
        ("/pods/p/log?container=x", 400, "container x is not valid for pod p"),
        ("/pods/p/log?container=b", 400, "container \"b\" is waiting to start"),
        ("/pods/ghost/log", 404, "pods \"ghost\" not found"),
        (
            "/pods/waiting/exec?container=a&stdout=1&command=ls",
            400,
            "pod waiting does not have a host assigned",
        ),
        ("/pods/p/exec?container=a&command=ls", 400, "you must specify at least 1 of stdin, stdout, stderr"),
    ];
    for (path, code, text) in cases {
        let (got, body) = get(&world, path).await;
        assert_eq!((got, message(&body).as_str()), (code, text), "{path}");
    }
    assert_eq!(get(&world, "/pods/waiting/log?container=a").await, (200, String::new()));
    for path in ["/nodes/n1/proxy/exec/ns/p/a", "/nodes/n1/proxy/%65xec/ns/p/a"] {
        assert_eq!(get(&world, path).await.0, 403, "{path}");
    }
    assert_eq!(get(&world, "/nodes/n1/proxy/logs/../exec").await.0, 400);
}

#[tokio::test]
async fn a_kubelet_with_another_nodes_certificate_is_not_spoken_to() {
    let world = world("n2").await;
    let (code, body) = get(&world, "/pods/p/log?container=a").await;
    assert_eq!(code, 500);
    assert!(message(&body).starts_with("error dialing backend"), "{body}");
    assert!(world.seen.lock().unwrap().is_empty());
}

/// Sends a raw upgrade and gives back the head of the answer with the stream.
async fn upgrade(world: &World, path: &str, more: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(world.front).await.unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(answer).unwrap(), stream)
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel() {
    let world = world("n1").await;
    let path =
        "/pods/p/exec?container=a&command=sh&command=-c&command=echo%20hi&stdin=true&stdout=true&tty=false";
    let (head, mut stream) = upgrade(&world, path, "Authorization: Bearer secret\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("SPDY/3.1"), "{head}");
    for word in [b"hello", b"world"] {
        stream.write_all(word).await.unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.unwrap();
        back.reverse();
        assert_eq!(&back, word);
    }
    stream.shutdown().await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(3), stream.read(&mut [0; 1])).await;
    assert_eq!(end.expect("the tunnel ends with its client").unwrap(), 0);
    let seen = world.seen.lock().unwrap().clone();
    let query = "command=sh&command=-c&command=echo%20hi&input=1&output=1";
    assert_eq!(seen, [format!("kube-apiserver-kubelet-client /exec/ns/p/a?{query} false")]);
}

#[tokio::test]
async fn after_a_refused_upgrade_both_connections_are_over() {
    let world = world("n1").await;
    let (head, mut stream) = upgrade(&world, "/pods/p/attach?container=a&stdout=1", "").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    // A second request on the same connection must reach nobody.
    let _ = stream.write_all(b"GET /pods/p/log?container=a HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut rest = Vec::new();
    let _ =
        tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut rest)).await.expect("closed");
    let rest = String::from_utf8_lossy(&rest);
    assert!(!rest.contains("HTTP/1.1") && !rest.contains("line"), "{rest}");
    assert_eq!(world.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn exec_by_get_needs_create() {
    let world = world("n1").await;
    let (head, _) = upgrade(&world, "/pods/p/exec?container=a&stdout=1&command=ls", "X-Nobody: 1\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(world.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn logs_come_over_a_websocket_too() {
    let world = world("n1").await;
    let stream = TcpStream::connect(world.front).await.unwrap();
    let request = http::Request::get("ws://x/pods/p/log?container=a")
        .header("host", "x")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "binary.k8s.io")
        .body(())
        .unwrap();
    let (mut socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "binary.k8s.io");
    let mut text = Vec::new();
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Binary(piece) => text.extend_from_slice(&piece),
            Message::Close(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(String::from_utf8(text).unwrap(), "line 0\nline 1\n");
    let seen = world.seen.lock().unwrap().clone();
    assert_eq!(seen, ["kube-apiserver-kubelet-client /containerLogs/ns/p/a false"]);
}
