//! The TLS front: accept, shake hands, say who the peer is, serve HTTP/1.1 and HTTP/2, drain.
//!
//! ```text
//! listener ─► permit (≤ MAX_CONNECTIONS) ─► handshake (≤ 10 s) ─► PeerIdentity from the certificate ─► hyper ─► router
//! ```
//!
//! Bounds against a hostile peer stand here: connections, time of the handshake, time of a request's head, streams
//! per HTTP/2 connection. What a request may cost is the router's matter.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::auth::authn::PeerIdentity;
use crate::request::UserInfo;

/// Connections at a time, watches of every kubelet and controller included.
const MAX_CONNECTIONS: usize = 4096;
/// For TCP accept to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the head of an HTTP/1.1 request (slow senders).
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Concurrent streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 250;
/// HTTP/2 pings find dead peers.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long running requests may take to end after the shutdown began; watches are cut off then.
const DRAIN: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no file descriptors left), so that the loop doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server's TLS: its certificate, and the CA that client certificates must come from. Clients without one are let in
/// (they may bring a token); clients with a foreign or expired one are not. All three are PEM.
pub fn tls_config(cert: &str, key: &str, client_ca: &str) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(client_ca.as_bytes()) {
        roots.add(ca?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves until `shutdown`, then lets running requests end for ten seconds.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, peer, permit)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        connections.spawn(async move {
            let _permit = permit;
            match handshake(stream, &acceptor).await {
                Ok(stream) => connection(stream, peer, router, &shutdown).await,
                Err(error) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            tracing::warn!(%error, "accept failed");
            None
        }
    }
}

async fn handshake(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await?
}

/// One connection to its end; a shutdown lets its running requests finish, for as long as the drain lasts.
async fn connection(
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    router: Router,
    shutdown: &CancellationToken,
) {
    let identity = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|c| identity(c));
    if let Some(None) = identity {
        tracing::debug!(%peer, "a verified client certificate has no common name: closed");
        return;
    }
    let identity = identity.flatten();
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        router.clone().oneshot(request)
    });
    let builder = http_builder();
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service)));
    tokio::select! {
        result = connection.as_mut() => return ended(peer, result),
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    if let Ok(result) = tokio::time::timeout(DRAIN, connection).await {
        ended(peer, result);
    }
}

fn ended(peer: SocketAddr, result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

fn http_builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// The user that a certificate names (CN, and a group per O); none without a CN.
fn identity(certificate: &CertificateDer<'_>) -> Option<PeerIdentity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|n| !n.is_empty())?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    Some(PeerIdentity(UserInfo::new(name, &groups)))
}
