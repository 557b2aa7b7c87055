//! The TLS front with real sockets: who the peer is, who is turned away, HTTP/2, draining.
#![allow(clippy::unwrap_used)] // helpers of tests, outside of test functions

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::routing::get;
use axum::{Router, middleware};
use bytes::Bytes;
use common::{Authority, Memory};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelite_apiserver::auth::Objects;
use kubelite_apiserver::auth::layers::authenticate;
use kubelite_apiserver::client::in_process_client;
use kubelite_apiserver::connect::tunnel::client_tls;
use kubelite_apiserver::parts::{Keys, Parts};
use kubelite_apiserver::request::UserInfo;
use kubelite_apiserver::serve::{serve, tls_config};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

async fn whoami(request: Request) -> String {
    let user = request.extensions().get::<UserInfo>().unwrap();
    format!("{} {}", user.name, user.groups.join(","))
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_millis(400)).await;
    "done"
}

fn service_account_key() -> Vec<u8> {
    rcgen::KeyPair::generate().unwrap().serialize_der()
}

fn router(ca: &Authority) -> Router {
    let objects: Arc<dyn Objects> = Arc::new(Memory::default());
    let (certificate, key) = ca.sign("kube-apiserver-kubelet-client", "system:masters", &[]);
    let keys = Keys {
        issuer: "https://iss".into(),
        service_account_key: service_account_key(),
        ca: ca.pem.clone(),
        kubelet_client_certificate: certificate,
        kubelet_client_key: key,
        static_tokens: vec![("s3cret".into(), UserInfo::new("joiner", &["g"]))],
    };
    let parts = Parts::new(&objects, &keys).unwrap();
    Router::new()
        .route("/whoami", get(whoami))
        .route("/slow", get(slow))
        .layer(middleware::from_fn_with_state(parts.auth, authenticate))
}

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(ca: &Authority) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (certificate, key) = ca.sign("kube-apiserver", "x", &["localhost"]);
    let tls = tls_config(&certificate, &key, &ca.pem).unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, tls, router(ca), shutdown.clone()));
    Server { address, shutdown, task }
}

fn nobody(ca: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn ask(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    path: &str,
    token: Option<&str>,
) -> Result<(u16, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(tls);
    let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut request = http::Request::get(format!("https://localhost{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let answer = if h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    };
    let status = answer.status().as_u16();
    Ok((status, String::from_utf8(answer.into_body().collect().await?.to_bytes().into())?))
}

#[tokio::test]
async fn the_certificate_says_who_asks() {
    let ca = Authority::new();
    let server = start(&ca).await;
    let (certificate, key) = ca.sign("system:node:n1", "system:nodes", &[]);
    let tls = client_tls(&ca.pem, &certificate, &key).unwrap();
    let node = (200, "system:node:n1 system:nodes,system:authenticated".to_owned());
    assert_eq!(ask(server.address, tls.clone(), "/whoami", None).await.unwrap(), node);
    // A token beside the certificate changes nothing.
    assert_eq!(ask(server.address, tls.clone(), "/whoami", Some("s3cret")).await.unwrap(), node);
    let mut h2 = ClientConfig::clone(&tls);
    h2.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(ask(server.address, Arc::new(h2), "/whoami", None).await.unwrap(), node);
}

#[tokio::test]
async fn without_certificate_tokens_count_and_bad_ones_are_401() {
    let ca = Authority::new();
    let server = start(&ca).await;
    let ask = |token| ask(server.address, nobody(&ca), "/whoami", token);
    assert_eq!(ask(None).await.unwrap().1, "system:anonymous system:unauthenticated");
    assert_eq!(ask(Some("s3cret")).await.unwrap().1, "joiner g,system:authenticated");
    let (code, body) = ask(Some("wrong")).await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, status["reason"].as_str()), (401, Some("Unauthorized")));
}

#[tokio::test]
async fn a_foreign_certificate_does_not_get_in() {
    let ca = Authority::new();
    let server = start(&ca).await;
    let (certificate, key) = Authority::new().sign("root", "system:masters", &[]);
    let tls = client_tls(&ca.pem, &certificate, &key).unwrap();
    assert!(ask(server.address, tls, "/whoami", None).await.is_err());
}

#[tokio::test]
async fn a_running_request_outlives_the_shutdown_and_new_ones_do_not_begin() {
    let ca = Authority::new();
    let server = start(&ca).await;
    let running = tokio::spawn({
        let (address, tls) = (server.address, nobody(&ca));
        async move { ask(address, tls, "/slow", None).await.map_err(|e| e.to_string()) }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.shutdown.cancel();
    assert_eq!(running.await.unwrap().unwrap(), (200, "done".to_owned()));
    tokio::time::timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn the_client_in_the_process_has_its_own_name() {
    let client = in_process_client(router(&Authority::new()), UserInfo::new("system:kube-scheduler", &[]));
    let request = http::Request::get("/whoami").body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    assert_eq!(text, "system:kube-scheduler system:authenticated");
}
