//! The connection behind exec, attach and port forwarding: the client's upgraded connection on one side, the runtime's
//! streaming server on the other, and bytes both ways.

use super::{Answer, Server};
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// The runtime's streaming server is on this machine; it answers at once or not at all.
const ANSWER: Duration = Duration::from_secs(10);
/// A refusal of the runtime's, as text.
const MAX_REFUSAL: usize = 64 << 10;
/// Bytes in one WebSocket message to the client.
pub(super) const MESSAGE: usize = 32 << 10;
/// The longest message from a client.
const MAX_MESSAGE: usize = 1 << 20;
/// Which streams the connection carries, by name.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// The client's end.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;
/// The runtime's end.
pub(super) type Runtime = TokioIo<Upgraded>;

/// Tunnels the client's connection to `url`, its upgrade passed on and the answer passed back as they are.
pub(super) async fn through(server: &Server, mut request: Request, url: &str) -> Answer {
    if !request.headers().contains_key(UPGRADE) {
        let text = "unable to upgrade: missing upgrade headers in request";
        return Err((StatusCode::BAD_REQUEST, text.into()));
    }
    let client = hyper::upgrade::on(&mut request);
    let answer = dial(url, request.method().clone(), upgrade_headers(request.headers())).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refusal(answer).await;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    spawn(server, client, hyper::upgrade::on(answer), async |mut client, mut runtime| {
        tokio::io::copy_bidirectional(&mut client, &mut runtime).await.map(drop)
    });
    Ok(response)
}

/// Ends the client's WebSocket of this subprotocol here and opens a SPDY connection of `streams` to `url`; `work` carries
/// the one over the other (KEP-4006).
pub(super) async fn ended<F>(
    server: &Server,
    mut request: Request,
    url: &str,
    subprotocol: &'static str,
    streams: &'static str,
    work: impl FnOnce(Socket, Runtime) -> F + Send + 'static,
) -> Answer
where
    F: Future<Output = io::Result<()>> + Send,
{
    let websocket = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"websocket");
    if !request.headers().get(UPGRADE).is_some_and(websocket) {
        let text = format!("unable to upgrade: {subprotocol} is spoken over WebSocket");
        return Err((StatusCode::BAD_REQUEST, text));
    }
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return Err((StatusCode::BAD_REQUEST, "unable to upgrade: Sec-WebSocket-Key is missing".into()));
    };
    let accept = derive_accept_key(key.as_bytes());
    let client = hyper::upgrade::on(&mut request);
    let spdy = HeaderMap::from_iter([
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("SPDY/3.1")),
        (STREAM_PROTOCOL, HeaderValue::from_static(streams)),
    ]);
    let answer = dial(url, Method::POST, spdy).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refusal(answer).await;
    }
    spawn(server, client, hyper::upgrade::on(answer), async |client, runtime| {
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let socket = WebSocketStream::from_raw_socket(client, Role::Server, Some(config)).await;
        work(socket, runtime).await
    });
    let headers = [
        (CONNECTION, "Upgrade".to_string()),
        (UPGRADE, "websocket".to_string()),
        (SEC_WEBSOCKET_ACCEPT, accept),
        (SEC_WEBSOCKET_PROTOCOL, subprotocol.to_string()),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// What belongs to the upgrade goes to the runtime; credentials and the like don't.
fn upgrade_headers(headers: &HeaderMap) -> HeaderMap {
    let belongs = |name: &HeaderName| {
        [CONNECTION, UPGRADE, STREAM_PROTOCOL].contains(name) || name.as_str().starts_with("sec-websocket-")
    };
    headers
        .iter()
        .filter(|(name, _)| belongs(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

async fn dial(
    url: &str,
    method: Method,
    headers: HeaderMap,
) -> Result<http::Response<Incoming>, (StatusCode, String)> {
    let work = async {
        let uri: Uri = url.parse().map_err(io::Error::other)?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(io::Error::other("it is no http URL"));
        };
        let stream = tokio::net::TcpStream::connect(authority.as_str()).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = http::Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
        sender.send_request(request).await.map_err(io::Error::other)
    };
    let failed = |error: String| {
        let text = format!("the container runtime's streaming server does not answer: {error}");
        (StatusCode::BAD_GATEWAY, text)
    };
    match tokio::time::timeout(ANSWER, work).await {
        Ok(result) => result.map_err(|e| failed(e.to_string())),
        Err(_) => Err(failed("timed out".into())),
    }
}

async fn refusal(answer: http::Response<Incoming>) -> Answer {
    let status = answer.status();
    let text = Limited::new(answer.into_body(), MAX_REFUSAL).collect().await;
    let text = text.map(|b| b.to_bytes()).unwrap_or_default();
    Err((status, String::from_utf8_lossy(&text).into_owned()))
}

/// Runs `work` over both upgraded connections until one of them ends, or the kubelet does.
fn spawn<F>(
    server: &Server,
    client: OnUpgrade,
    runtime: OnUpgrade,
    work: impl FnOnce(TokioIo<Upgraded>, TokioIo<Upgraded>) -> F + Send + 'static,
) where
    F: Future<Output = io::Result<()>> + Send,
{
    let shutdown = server.shutdown.clone();
    server.tunnels.spawn(async move {
        let tunnel = async {
            let (client, runtime) = tokio::try_join!(client, runtime).map_err(io::Error::other)?;
            work(TokioIo::new(client), TokioIo::new(runtime)).await
        };
        if let Some(Err(error)) = shutdown.run_until_cancelled(tunnel).await {
            tracing::debug!(%error, "a tunnel to the container runtime ended");
        }
    });
}

/// Port forwarding: carries binary messages as a stream of bytes, both ways, until either side ends.
pub(super) async fn pump(socket: Socket, runtime: Runtime) -> io::Result<()> {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let inward = async {
        while let Some(message) = from_client.next().await {
            match message.map_err(io::Error::other)? {
                Message::Binary(bytes) => to_runtime.write_all(&bytes).await?,
                Message::Close(_) => break,
                // Pings are answered by the WebSocket itself; text has no meaning here.
                _ => {}
            }
        }
        to_runtime.shutdown().await
    };
    let outward = async {
        let mut block = vec![0; MESSAGE];
        loop {
            let count = from_runtime.read(&mut block).await?;
            if count == 0 {
                return to_client.send(Message::Close(None)).await.map_err(io::Error::other);
            }
            let bytes = Bytes::copy_from_slice(block.get(..count).unwrap_or_default());
            to_client.send(Message::Binary(bytes)).await.map_err(io::Error::other)?;
        }
    };
    tokio::select! {
        result = inward => result,
        result = outward => result,
    }
}
