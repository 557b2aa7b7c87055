//! The HTTP client of probes and hooks: one GET on a connection of its own. Certificates are not verified, as a probe
//! asks whether the container answers and not who it is.

use super::action::{authority, dial_error, port};
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Redirections within the host that are followed.
const MAX_REDIRECTS: usize = 10;
/// Bytes of an answer that are read before the connection is closed.
const MAX_BODY: usize = 10 << 10;
/// What a container's access log shows.
const AGENT: HeaderValue = HeaderValue::from_static("kube-probe/1.37");

/// A request. Displayed as its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Get {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
}

impl fmt::Display for Get {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }
}

impl Get {
    /// Pure: from an action's spec. Without a host of its own it goes to the pod's address.
    pub(crate) fn new(container: &Container, get: &HTTPGetAction, pod_ip: IpAddr) -> Result<Get, String> {
        let port = port(container, &get.port)?;
        let host = get.host.clone().filter(|h| !h.is_empty()).unwrap_or(pod_ip.to_string());
        let path = get.path.clone().unwrap_or_default();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let mut headers = HeaderMap::new();
        for header in get.http_headers.iter().flatten() {
            let wrong = || format!("\"{}: {}\" is not a header", header.name, header.value);
            let name = HeaderName::try_from(&header.name).map_err(|_| wrong())?;
            headers.append(name, HeaderValue::try_from(&header.value).map_err(|_| wrong())?);
        }
        for (name, value) in [(USER_AGENT, AGENT), (ACCEPT, HeaderValue::from_static("*/*"))] {
            headers.entry(name).or_insert(value);
        }
        if !headers.contains_key(HOST) {
            let own = HeaderValue::try_from(authority(&host, port));
            headers.insert(HOST, own.map_err(|_| format!("\"{host}\" is not a host"))?);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let tls = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        Ok(Get { tls, host, port, path, headers })
    }

    /// Sends it and returns the status code. Redirections to another host are not followed and are an answer themselves.
    /// The caller sets a time limit.
    pub(crate) async fn send(&self) -> Result<u16, String> {
        let mut request = self.clone();
        for _ in 0..MAX_REDIRECTS {
            let answer = request.once().await?;
            let code = answer.status();
            let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let next = location.filter(|_| code.is_redirection()).and_then(|l| request.redirected(l));
            match next {
                Some(next) => request = next,
                None => return Ok(code.as_u16()),
            }
        }
        Err(format!("stopped after {MAX_REDIRECTS} redirects"))
    }

    /// The request that a Location header leads to, if it stays at this host.
    fn redirected(&self, location: &str) -> Option<Get> {
        let uri: Uri = location.parse().ok()?;
        let tls = uri.scheme_str().map_or(self.tls, |scheme| scheme == "https");
        let host = uri.host().map(|host| host.trim_matches(['[', ']']));
        if host.is_some_and(|host| host != self.host) {
            return None;
        }
        let default = if tls { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(if host.is_some() { default } else { self.port });
        // Headers stay, as a Host of its own was given on purpose.
        let path = uri.path_and_query()?.to_string();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        Some(Get { tls, port, path, ..self.clone() })
    }

    async fn once(&self) -> Result<http::Response<()>, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|e| dial_error(&self.host, self.port, &e))?;
        if !self.tls {
            return self.exchange(stream).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(unverified()?);
        self.exchange(connector.connect(name, stream).await.map_err(|e| e.to_string())?).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<http::Response<()>, String> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let mut request = http::Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = self.path.parse().map_err(|e| format!("path {}: {e}", self.path))?;
        *request.headers_mut() = self.headers.clone();
        // Dropped with this future, the connection ends with the request.
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let (head, body) = answer.into_parts();
        // A server that is cut off in its answer would complain; one that never ends is cut off.
        let _ = Limited::new(body, MAX_BODY).collect().await;
        Ok(http::Response::from_parts(head, ()))
    }
}

fn unverified() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| e.to_string())?.dangerous();
    Ok(Arc::new(builder.with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth()))
}

/// Takes any certificate for good; signatures must still be right.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn get(spec: serde_json::Value) -> Get {
        let get: HTTPGetAction = serde_json::from_value(spec).unwrap();
        Get::new(&Container::default(), &get, "127.0.0.1".parse().unwrap()).unwrap()
    }

    #[test]
    fn urls_and_redirections() {
        let at = get(json!({ "port": 8080, "path": "a?b=c" }));
        assert_eq!(at.to_string(), "http://127.0.0.1:8080/a?b=c");
        let six = get(json!({ "port": 443, "host": "fd00::1", "scheme": "HTTPS" }));
        assert_eq!(six.to_string(), "https://[fd00::1]:443/");
        let cases = [
            ("/x", Some("http://127.0.0.1:8080/x")),
            ("http://127.0.0.1:81/x?y", Some("http://127.0.0.1:81/x?y")),
            ("https://127.0.0.1/", Some("https://127.0.0.1:443/")),
            ("http://127.0.0.2:8080/x", None),
            ("http://example.org/", None),
        ];
        for (location, expected) in cases {
            let next = at.redirected(location).map(|get| get.to_string());
            assert_eq!(next.as_deref(), expected, "{location}");
        }
    }

    /// Answers each connection with the next of `answers`; returns its port and what it was asked.
    async fn server(answers: &'static [&'static str]) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut asked = String::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut block = vec![0; 4096];
                let count = stream.read(&mut block).await.unwrap();
                asked.push_str(&String::from_utf8_lossy(&block[..count]));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (port, task)
    }

    #[tokio::test]
    async fn requests() {
        let (port, task) =
            server(&["HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n", "HTTP/1.0 503 No\r\n\r\n"]).await;
        let headers = json!([{ "name": "Host", "value": "web" }, { "name": "X-A", "value": "1" }]);
        let code = get(json!({ "port": port, "path": "/", "httpHeaders": headers })).send().await;
        assert_eq!(code, Ok(503));
        let asked = task.await.unwrap().to_lowercase();
        assert!(
            asked.starts_with("get / http/1.1\r\n") && asked.contains("get /next http/1.1\r\n"),
            "{asked}"
        );
        for header in ["host: web", "x-a: 1", "user-agent: kube-probe/1.37", "connection: close"] {
            assert_eq!(asked.matches(&format!("{header}\r\n")).count(), 2, "{header}: {asked}");
        }
        let (port, _) = server(&["HTTP/1.1 301 Moved\r\nLocation: http://example.org/\r\n\r\n"]).await;
        assert_eq!(get(json!({ "port": port })).send().await, Ok(301));
    }
}
