//! How an agent becomes a node: it fetches the CA, checks it against the token, and has its two certificates signed.
//!
//! The server's side is a small router beside the API (`/cacerts`, `/v1-kubelite/join`); the agent's side is one HTTP client
//! over rustls. What doesn't live here: how certificates are made (`pki`) and what a node may do (the API server's matter).

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::node::Identity;
use crate::node_keys::NodeKeys;
use crate::pki::{KeyAndCertificate, Pki};
use crate::token::Token;

const CA_PATH: &str = "/cacerts";
const JOIN_PATH: &str = "/v1-kubelite/join";
const CA_FILE: &str = "ca.crt";
const CLIENT_FILE: &str = "client.crt";
const SERVING_FILE: &str = "serving.crt";
/// Between two attempts to join.
const RETRY: Duration = Duration::from_secs(2);
/// The most that either side reads of the other's answer.
const BODY_LIMIT: usize = 256 * 1024;

/// What a joining node asks for.
#[derive(Debug, Serialize, Deserialize)]
struct JoinRequest {
    node: String,
    ip: IpAddr,
    /// PEM; the server takes only the key from it and decides on the names itself.
    client_csr: String,
    serving_csr: String,
}

/// What it gets: PEM certificates, and what nodes must agree on.
#[derive(Debug, Serialize, Deserialize)]
struct JoinAnswer {
    client_certificate: String,
    serving_certificate: String,
}

/// A node's credentials, all PEM.
#[derive(Debug, Clone)]
pub struct NodeCredentials {
    /// The cluster's CA.
    pub ca: String,
    /// For speaking to the API server, as `system:node:<name>`.
    pub client: KeyAndCertificate,
    /// For the kubelet's own port.
    pub serving: KeyAndCertificate,
}

impl NodeCredentials {
    /// Writes the certificates down, for a start while the server is away.
    fn keep(self, dir: &Path) -> Result<Self> {
        crate::files::write_secret(&dir.join(CA_FILE), &self.ca)?;
        crate::files::write_secret(&dir.join(CLIENT_FILE), &self.client.certificate)?;
        crate::files::write_secret(&dir.join(SERVING_FILE), &self.serving.certificate)?;
        Ok(self)
    }
}

/// The server's side, to be merged with the API's router.
pub fn router(pki: Arc<Pki>, token: Token) -> Router {
    Router::new().route(CA_PATH, get(ca)).route(JOIN_PATH, post(join)).with_state((pki, Arc::new(token)))
}

type Shared = State<(Arc<Pki>, Arc<Token>)>;

async fn ca(State((pki, _)): Shared) -> String {
    pki.ca_pem().to_owned()
}

async fn join(
    State((pki, token)): Shared,
    headers: HeaderMap,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinAnswer>, (StatusCode, String)> {
    let given = headers.get("authorization").and_then(|value| value.to_str().ok());
    let secret = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !token.accepts(secret) {
        return Err((StatusCode::UNAUTHORIZED, "the token is not this server's".to_owned()));
    }
    let problems = kubelite_api::names::dns1123_subdomain(&request.node);
    if let Some(problem) = problems.first() {
        return Err((StatusCode::BAD_REQUEST, format!("node name \"{}\": {problem}", request.node)));
    }
    let bad = |error: anyhow::Error| {
        (StatusCode::BAD_REQUEST, format!("the certificate request is no good: {error:#}"))
    };
    let client_certificate = pki.sign_node_client(&request.client_csr, &request.node).map_err(bad)?;
    let serving_certificate =
        pki.sign_node_serving(&request.serving_csr, &request.node, request.ip).map_err(bad)?;
    tracing::info!(node = request.node, ip = %request.ip, "a node joined");
    Ok(Json(JoinAnswer { client_certificate, serving_certificate }))
}

/// The agent's side: asks until the server answers, since nodes and server may boot together. A token that is refused, or
/// a server that is another than the token's, ends it. With certificates of an earlier time a node goes on without the server.
pub async fn until_joined(
    server: &str,
    token: &Token,
    node: &Identity,
    dir: &Path,
    shutdown: &CancellationToken,
) -> Result<NodeCredentials> {
    let keys = NodeKeys::load_or_create(dir)?;
    loop {
        let error = match ask(server, token, node, &keys).await {
            Ok(credentials) => return credentials.keep(dir),
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Away(error)) => error,
        };
        if let Ok(credentials) = known(dir, &keys) {
            tracing::warn!("{error:#}; going on with the certificates of the last time");
            return Ok(credentials);
        }
        tracing::warn!("{error:#}; trying again in {} s", RETRY.as_secs());
        tokio::select! {
            () = shutdown.cancelled() => bail!("stopped before {server} could be joined"),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Why joining failed.
enum Failure {
    /// The server answered, and it will not answer otherwise next time.
    Refused(anyhow::Error),
    /// It did not answer.
    Away(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Refused(error.into())
    }
}

async fn ask(
    server: &str,
    token: &Token,
    node: &Identity,
    keys: &NodeKeys,
) -> Result<NodeCredentials, Failure> {
    let uri: http::Uri = server.parse().with_context(|| format!("--server {server} is no URL"))?;
    let blind = tls::without_trust()?;
    let ca =
        String::from_utf8(request(&uri, blind, http::Request::get(CA_PATH), Bytes::new()).await?.into())?;
    if !token.vouches_for(&ca) {
        let error = anyhow!(
            "{server} shows another CA than the token names: is it the right server, and the token its own?"
        );
        return Err(Failure::Refused(error));
    }
    let body = serde_json::to_vec(&JoinRequest {
        node: node.name.clone(),
        ip: node.ip,
        client_csr: keys.client_csr(&node.name)?,
        serving_csr: keys.serving_csr(&node.name)?,
    })?;
    let post = http::Request::post(JOIN_PATH)
        .header("authorization", format!("Bearer {}", token.secret))
        .header("content-type", "application/json");
    let answer: JoinAnswer =
        serde_json::from_slice(&request(&uri, tls::trusting(&ca)?, post, body.into()).await?)?;
    Ok(keys.with(ca, answer.client_certificate, answer.serving_certificate))
}

fn known(dir: &Path, keys: &NodeKeys) -> Result<NodeCredentials> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name));
    Ok(keys.with(read(CA_FILE)?, read(CLIENT_FILE)?, read(SERVING_FILE)?))
}

/// One request over one TLS connection; anything but 200 is an error with the server's words.
async fn request(
    server: &http::Uri,
    tls: rustls::ClientConfig,
    request: http::request::Builder,
    body: Bytes,
) -> Result<Bytes, Failure> {
    let host = server.host().with_context(|| format!("{server} names no host"))?;
    let port = server.port_u16().unwrap_or(6443);
    let away = |what: &'static str| move |error| Failure::Away(anyhow!("{what} {host}:{port}: {error}"));
    let tcp = TcpStream::connect((host, port)).await.map_err(away("cannot reach"))?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await;
    let stream = stream.map_err(away("no TLS with"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = request.header("host", format!("{host}:{port}")).body(Full::new(body))?;
    let response = sender.send_request(request).await.map_err(|e| Failure::Away(e.into()))?;
    let status = response.status();
    let collected = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
    let bytes =
        collected.map_err(|e| Failure::Away(anyhow!("{host}:{port} sent no whole answer: {e}")))?.to_bytes();
    let text = || anyhow!("{host}:{port} answered {status}: {}", String::from_utf8_lossy(&bytes).trim());
    match status {
        StatusCode::OK => Ok(bytes),
        status if status.is_server_error() => Err(Failure::Away(text())),
        _ => Err(Failure::Refused(text())),
    }
}

/// The two ways in which an agent trusts its server.
mod tls {
    use super::*;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::UnixTime;
    use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

    /// Trusts this CA alone.
    pub(super) fn trusting(ca: &str) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        Ok(builder()?.with_root_certificates(roots).with_no_client_auth())
    }

    /// Trusts anybody: for the CA certificate only, which the token then vouches for.
    pub(super) fn without_trust() -> Result<ClientConfig> {
        let verifier = Arc::new(Anybody(ring::default_provider()));
        Ok(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }

    fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
        let provider = Arc::new(ring::default_provider());
        Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?)
    }

    #[derive(Debug)]
    struct Anybody(CryptoProvider);

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
