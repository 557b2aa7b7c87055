//! One request, one fresh connection: send, stream the answer, or carry bytes both ways after a 101.
//!
//! A connection to a kubelet is never used for a second request: what a client says after a refused upgrade must not
//! reach the kubelet under the API server's name. Redirects are not followed, and not passed on for kubelets.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kubelite_api::status::ApiError;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

use crate::connect::target::{Target, Upgrade};

/// Connections towards nodes and pods at a time.
const MAX_TUNNELS: usize = 1024;
/// For TCP connect and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the head of the answer is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// For one direction of a tunnel after the other has ended.
const LINGER: Duration = Duration::from_secs(5);
/// Of a kubelet's error text, so much goes into a Status (bytes).
const MAX_ERROR_TEXT: usize = 8 * 1024;
/// Headers that are for one hop (RFC 9110, 7.6.1), and those that speak of identity.
const NOT_FORWARDED: &[&str] = &[
    "authorization",
    "connection",
    "cookie",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The TLS of the API server as a client of kubelets: its certificate, and the CA of theirs. All PEM.
pub fn client_tls(ca: &str, cert: &str, key: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(ca?)?;
    }
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
    Ok(Arc::new(config))
}

/// Whether the headers ask for another protocol (RFC 9110, 7.8).
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let listed = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    listed && headers.contains_key(header::UPGRADE)
}

/// Takes out what is not for the next hop; an upgrade keeps its two headers.
pub fn clean_request(request: &mut Request<Body>) {
    let upgrade = wants_upgrade(request.headers()).then(|| request.headers().get(header::UPGRADE).cloned());
    clean(request.headers_mut());
    if let Some(Some(protocol)) = upgrade {
        request.headers_mut().insert(header::UPGRADE, protocol);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

fn clean(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    let identity: Vec<HeaderName> =
        headers.keys().filter(|k| k.as_str().starts_with("x-remote-")).cloned().collect();
    for name in named.into_iter().chain(identity) {
        headers.remove(name);
    }
    for name in NOT_FORWARDED {
        headers.remove(*name);
    }
}

/// Opens connections, a bounded number at a time.
pub struct Tunnels {
    tls: TlsConnector,
    permits: Arc<Semaphore>,
}

impl Tunnels {
    /// With this TLS towards kubelets.
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Tunnels { tls: TlsConnector::from(tls), permits: Arc::new(Semaphore::new(MAX_TUNNELS)) }
    }

    /// Sends the (cleaned) request to the target and gives back its answer.
    pub async fn carry(&self, target: &Target, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(429, "TooManyRequests", "too many connections to nodes are open, try again later")
        })?;
        let dial = |e: io::Error| ApiError::internal(format!("error dialing backend: {e}"));
        match &target.tls_name {
            None => self.exchange(tcp(target).await.map_err(dial)?, permit, target, request).await,
            Some(name) => {
                let stream = self.secure(target, name).await.map_err(dial)?;
                self.exchange(stream, permit, target, request).await
            }
        }
    }

    async fn secure(
        &self,
        target: &Target,
        name: &str,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let stream = tcp(target).await?;
        tokio::time::timeout(CONNECT_TIMEOUT, self.tls.connect(name, stream)).await?
    }

    async fn exchange<S>(
        &self,
        stream: S,
        permit: OwnedSemaphorePermit,
        target: &Target,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let permit = Arc::new(permit);
        let failed = |e: &dyn std::fmt::Display| ApiError::internal(format!("error dialing backend: {e}"));
        let client = wants_upgrade(request.headers())
            .then(|| request.extensions_mut().remove::<OnUpgrade>())
            .flatten();
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
        let held = permit.clone();
        tokio::spawn(async move {
            let _held = held;
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a node ended early");
            }
        });
        let request = outgoing(target, request)?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await;
        let answer = answer.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        finish(target, client, answer, permit).await
    }
}

async fn tcp(target: &Target) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target.address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The request as the target sees it: its path, its host, the headers as they are.
fn outgoing(target: &Target, request: Request<Body>) -> Result<Request<Body>, ApiError> {
    let bad = |_| ApiError::bad_request("path or query cannot be passed on");
    let (parts, body) = request.into_parts();
    let mut out = Request::new(body);
    *out.method_mut() = parts.method;
    *out.uri_mut() = target.path.parse::<Uri>().map_err(|e| bad(e.to_string()))?;
    *out.headers_mut() = parts.headers;
    let host = HeaderValue::from_str(&target.address.to_string()).map_err(|e| bad(e.to_string()))?;
    out.headers_mut().insert(header::HOST, host);
    Ok(out)
}

async fn finish(
    target: &Target,
    client: Option<OnUpgrade>,
    mut answer: Response<Incoming>,
    permit: Arc<OwnedSemaphorePermit>,
) -> Result<Response<Body>, ApiError> {
    let status = answer.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let client =
            client.ok_or_else(|| ApiError::internal("the backend upgraded a request that did not ask"))?;
        let backend = hyper::upgrade::on(&mut answer);
        tokio::spawn(tunnel(client, backend, permit));
        return Ok(answer.map(|_| Body::empty()));
    }
    if status.is_redirection() && target.tls_name.is_some() {
        return Err(ApiError::internal("the kubelet answered with a redirect, which is not followed"));
    }
    if target.plain_errors && !status.is_success() {
        return Err(plain_error(status, answer).await);
    }
    clean(answer.headers_mut());
    if target.upgrade == Upgrade::Required || client.is_some() {
        // The upgrade failed: this connection is not for another request.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer.map(Body::new))
}

/// Bytes both ways. When one side has ended, the other gets what is on the way and a moment to end as well.
async fn tunnel(client: OnUpgrade, backend: OnUpgrade, permit: Arc<OwnedSemaphorePermit>) {
    let _permit = permit;
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "an upgrade was not completed"),
    };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_backend, mut to_backend) = tokio::io::split(TokioIo::new(backend));
    let mut up = pin!(copy(&mut from_client, &mut to_backend));
    let mut down = pin!(copy(&mut from_backend, &mut to_client));
    tokio::select! {
        () = up.as_mut() => drop(tokio::time::timeout(LINGER, down).await),
        () = down.as_mut() => drop(tokio::time::timeout(LINGER, up).await),
    }
}

/// One direction to its end, which is passed on.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    if let Err(error) = tokio::io::copy(from, to).await {
        tracing::debug!(%error, "one direction of a tunnel broke");
    }
    // The peer may be gone; then there is nobody to tell.
    let _ = to.shutdown().await;
}

/// A kubelet answers with text; a client of the API expects a Status.
async fn plain_error(status: StatusCode, answer: Response<Incoming>) -> ApiError {
    let body = Limited::new(answer.into_body(), MAX_ERROR_TEXT).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    match status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::NOT_FOUND => ApiError::new(404, "NotFound", text),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ApiError::internal(format!("the kubelet refuses the API server's certificate: {text}"))
        }
        _ => ApiError::internal(format!("Internal error occurred: {text}")),
    }
}
