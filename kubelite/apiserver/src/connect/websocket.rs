//! Logs over a WebSocket (RFC 6455): the kubelet's answer, a binary message per piece, subprotocol `binary.k8s.io`.
//!
//! Unlike exec, this is the API server's own end of a WebSocket: the kubelet serves logs as plain HTTP.

use axum::body::Body;
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kubelite_api::status::ApiError;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

/// The subprotocol that is spoken; also what a client without a wish gets.
const PROTOCOL: &str = "binary.k8s.io";
/// A client of logs sends nothing but control messages (bytes).
const MAX_INCOMING: usize = 4 * 1024;

/// A WebSocket that a client has asked for.
pub(super) struct Waiting {
    upgrade: OnUpgrade,
    accept: HeaderValue,
    named: bool,
}

/// Takes the wish out of a request, which is a plain one afterwards; none if it has no wish.
pub(super) fn take(request: &mut Request<Body>) -> Result<Option<Waiting>, ApiError> {
    if !super::tunnel::wants_upgrade(request.headers()) {
        return Ok(None);
    }
    let bad = |text: &str| ApiError::bad_request(format!("logs are upgraded to WebSocket only: {text}"));
    let headers = request.headers();
    let websocket = headers.get(UPGRADE).is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key =
        headers.get(SEC_WEBSOCKET_KEY).filter(|_| websocket).ok_or_else(|| bad("no WebSocket handshake"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad("bad key"))?;
    let wishes: Vec<&str> = wishes(headers);
    let named = wishes.contains(&PROTOCOL);
    if !named && !wishes.is_empty() {
        return Err(bad("the only subprotocol is binary.k8s.io"));
    }
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or_else(|| bad("HTTP/1.1 is needed"))?;
    let headers = request.headers_mut();
    let names: Vec<_> =
        headers.keys().filter(|k| k.as_str().starts_with("sec-websocket-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    headers.remove(UPGRADE);
    headers.remove(CONNECTION);
    Ok(Some(Waiting { upgrade, accept, named }))
}

fn wishes(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|p| !p.is_empty()).collect()
}

impl Waiting {
    /// Answers 101 and sends the body of `answer` through the WebSocket.
    pub(super) fn answer(self, answer: Response<Body>) -> Response<Body> {
        let mut switch = Response::new(Body::empty());
        *switch.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = switch.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if self.named {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        }
        let upgrade = self.upgrade;
        tokio::spawn(async move {
            if let Err(error) = pump(upgrade, answer.into_body()).await {
                tracing::debug!(%error, "a log over a WebSocket ended early");
            }
        });
        switch
    }
}

/// Pieces out; what comes in is read for pings and the client's goodbye.
async fn pump(upgrade: OnUpgrade, body: Body) -> anyhow::Result<()> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_INCOMING)).max_frame_size(Some(MAX_INCOMING));
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgrade.await?), Role::Server, Some(config)).await;
    let (mut out, mut incoming) = socket.split();
    let mut pieces = body.into_data_stream();
    loop {
        tokio::select! {
            piece = pieces.next() => match piece {
                Some(piece) => out.send(Message::Binary(piece?)).await?,
                None => break,
            },
            message = incoming.next() => match message {
                Some(Ok(message)) if !message.is_close() => {}
                _ => break,
            },
        }
    }
    out.close().await?;
    Ok(())
}
