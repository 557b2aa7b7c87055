//! Exec, attach and port forwarding: what the client asks for becomes a call to the runtime, which answers with a URL of
//! its streaming server; the client's connection is then tunnelled there.
//!
//! The streams inside the connection are between the client and the runtime. containerd 1.6 speaks SPDY/3.1 and the
//! WebSocket protocols in [`CHANNELS`]; for [`CLOSABLE`] and [`SPDY_IN_WEBSOCKET`] the client's WebSocket ends in the
//! kubelet, which speaks SPDY/3.1 to the runtime.

use super::{Answer, Pairs, Server, channels, find, tunnel};
use crate::runtime::Streams;
use axum::extract::{Path, Query, Request, State};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue, StatusCode};

/// WebSocket subprotocols of the runtime's streaming server.
const CHANNELS: [&str; 4] =
    ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// The WebSocket subprotocol of exec and attach whose channels can be closed one by one (KEP-4006).
const CLOSABLE: &str = "v5.channel.k8s.io";
/// The same streams over SPDY, where they could always be closed.
const STREAMS: &str = "v4.channel.k8s.io";
/// The WebSocket subprotocol that carries a SPDY connection for port forwarding (KEP-4006).
const SPDY_IN_WEBSOCKET: &str = "SPDY/3.1+portforward.k8s.io";

type Names = Path<(String, String, String)>;

/// `/exec/{namespace}/{pod}/{container}?command=…&input=1&output=1&error=1&tty=1`.
pub(super) async fn exec(
    State(server): State<Server>,
    Path((namespace, pod, container)): Names,
    Query(query): Pairs,
    mut request: Request,
) -> Answer {
    let way = Way::of(request.headers_mut())?;
    let command: Vec<String> =
        query.iter().filter(|(key, _)| key == "command").map(|(_, v)| v.clone()).collect();
    if command.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "you must specify at least 1 command".into()));
    }
    let id = find::running(&server.context, &namespace, &pod, &container).await?;
    let streams = streams(&query)?;
    let url = server.context.runtime.exec(&id, &command, streams).await;
    way.go(&server, request, &url.map_err(|e| find::of_runtime(&e))?, streams).await
}

/// `/attach/{namespace}/{pod}/{container}?input=1&output=1&error=1&tty=1`.
pub(super) async fn attach(
    State(server): State<Server>,
    Path((namespace, pod, container)): Names,
    Query(query): Pairs,
    mut request: Request,
) -> Answer {
    let way = Way::of(request.headers_mut())?;
    let id = find::running(&server.context, &namespace, &pod, &container).await?;
    let streams = streams(&query)?;
    let url = server.context.runtime.attach(&id, streams).await;
    way.go(&server, request, &url.map_err(|e| find::of_runtime(&e))?, streams).await
}

/// `/portForward/{namespace}/{pod}?port=80`; with SPDY the ports stand in the streams and not in the query.
pub(super) async fn port_forward(
    State(server): State<Server>,
    Path((namespace, pod)): Path<(String, String)>,
    Query(query): Pairs,
    mut request: Request,
) -> Answer {
    let wrapped = offered(request.headers()).any(|protocol| protocol == SPDY_IN_WEBSOCKET);
    if !wrapped {
        narrow(request.headers_mut())?;
    }
    let sandbox = find::sandbox(&server.context, &namespace, &pod).await?;
    let url = server.context.runtime.port_forward(&sandbox, &ports(&query)?).await;
    let url = url.map_err(|e| find::of_runtime(&e))?;
    if wrapped {
        tunnel::ended(&server, request, &url, SPDY_IN_WEBSOCKET, "portforward.k8s.io", tunnel::pump).await
    } else {
        tunnel::through(&server, request, &url).await
    }
}

/// How the channels of exec and attach come to the runtime.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// As the client sends them.
    Through,
    /// Taken out of the client's WebSocket here.
    Ended,
}

impl Way {
    /// The first of the offered subprotocols that the kubelet or the runtime speaks is taken.
    fn of(headers: &mut HeaderMap) -> Result<Way, (StatusCode, String)> {
        let taken = offered(headers).find(|p| *p == CLOSABLE || CHANNELS.contains(p));
        if taken == Some(CLOSABLE) {
            return Ok(Way::Ended);
        }
        narrow(headers).map(|()| Way::Through)
    }

    async fn go(self, server: &Server, request: Request, url: &str, streams: Streams) -> Answer {
        match self {
            Way::Through => tunnel::through(server, request, url).await,
            Way::Ended => {
                let work = move |socket, runtime| channels::carry(socket, runtime, streams);
                tunnel::ended(server, request, url, CLOSABLE, STREAMS, work).await
            }
        }
    }
}

/// The WebSocket subprotocols that the client offers.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|p| !p.is_empty())
}

/// Leaves of the offered subprotocols those that the runtime speaks; an error if there were some and none is left.
fn narrow(headers: &mut HeaderMap) -> Result<(), (StatusCode, String)> {
    let all = offered(headers).collect::<Vec<_>>().join(", ");
    let spoken = offered(headers).filter(|p| CHANNELS.contains(p)).collect::<Vec<_>>().join(", ");
    if all == spoken {
        return Ok(());
    }
    match HeaderValue::from_str(&spoken) {
        Ok(value) if !spoken.is_empty() => {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
            Ok(())
        }
        _ => {
            let text = format!(
                "unable to upgrade: none of the WebSocket protocols [{all}] is supported, use SPDY/3.1 or {CLOSABLE}"
            );
            Err((StatusCode::BAD_REQUEST, text))
        }
    }
}

fn streams(query: &[(String, String)]) -> Result<Streams, (StatusCode, String)> {
    let flag = |name: &str| {
        query.iter().any(|(k, v)| k == name && matches!(v.as_str(), "1" | "t" | "true" | "True"))
    };
    let tty = flag("tty");
    let streams = Streams {
        stdin: flag("input"),
        stdout: flag("output"),
        // A terminal has one output.
        stderr: flag("error") && !tty,
        tty,
    };
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err((StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr".into()));
    }
    Ok(streams)
}

fn ports(query: &[(String, String)]) -> Result<Vec<u16>, (StatusCode, String)> {
    let texts = query.iter().filter(|(key, _)| key == "port").flat_map(|(_, v)| v.split(','));
    let port = |text: &str| {
        let port = text.parse().ok().filter(|port| *port > 0);
        port.ok_or_else(|| (StatusCode::BAD_REQUEST, format!("\"{text}\" is not a port number")))
    };
    texts.map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        text.split('&').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn queries() {
        let all = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(streams(&pairs("input=1&output=1&error=1")), Ok(all));
        let terminal = Streams { stdin: false, stdout: true, stderr: false, tty: true };
        assert_eq!(streams(&pairs("output=true&error=1&tty=1")), Ok(terminal));
        assert!(streams(&pairs("tty=1&input=0")).is_err());
        assert_eq!(ports(&pairs("port=80,81&port=8080")), Ok(vec![80, 81, 8080]));
        for wrong in ["port=0", "port=65536", "port=http"] {
            assert!(ports(&pairs(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn subprotocols() {
        let cases = [
            (None, Ok((Way::Through, None))),
            (Some("v4.channel.k8s.io"), Ok((Way::Through, Some("v4.channel.k8s.io")))),
            (Some("v5.channel.k8s.io"), Ok((Way::Ended, Some("v5.channel.k8s.io")))),
            (Some("v6, v5.channel.k8s.io, x"), Ok((Way::Ended, Some("v6, v5.channel.k8s.io, x")))),
            // The client's order counts.
            (Some("v4.channel.k8s.io, v5.channel.k8s.io"), Ok((Way::Through, Some("v4.channel.k8s.io")))),
            (Some("v6.channel.k8s.io"), Err(StatusCode::BAD_REQUEST)),
        ];
        for (offered, expected) in cases {
            let mut headers = HeaderMap::new();
            if let Some(offered) = offered {
                headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
            }
            let result = Way::of(&mut headers).map_err(|(code, _)| code);
            let left = headers.get(SEC_WEBSOCKET_PROTOCOL).map(|v| v.to_str().unwrap());
            assert_eq!(result.map(|way| (way, left)), expected, "{offered:?}");
        }
    }
}
