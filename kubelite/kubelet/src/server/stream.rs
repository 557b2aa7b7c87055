//! exec, attach and port-forward: the client's upgraded connection, tunnelled raw to the runtime's streaming server.
//!
//! SPDY/3.1 passes, and the WebSocket protocols that the runtime knows. `v5.channel.k8s.io` and tunnelled SPDY are refused with
//! an HTTP error: kubectl then falls back to SPDY, which has all that they have.

use super::Refusal;
use crate::context::{Context, Entry};
use crate::runtime::{ContainerState, RuntimeError, Streams};
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use kube::ResourceExt;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Headers that the two ends negotiate by.
const CARRIED: [&str; 6] = [
    "upgrade",
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-accept",
];

pub(super) async fn exec(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref());
    let id = running(&context, &namespace, &pod, &container).await?;
    check_protocol(request.headers())?;
    let url = context.runtime.exec(&id, &query.command, query.streams).await.map_err(|e| failed(&e))?;
    tunnel(&url, request).await
}

pub(super) async fn attach(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let id = running(&context, &namespace, &pod, &container).await?;
    check_protocol(request.headers())?;
    let url =
        context.runtime.attach(&id, Query::parse(query.as_deref()).streams).await.map_err(|e| failed(&e))?;
    tunnel(&url, request).await
}

pub(super) async fn port_forward(
    State(context): State<Arc<Context>>,
    Path((namespace, pod)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let entry = find(&context, &namespace, &pod)?;
    check_protocol(request.headers())?;
    let sandboxes =
        context.runtime.list_sandboxes(entry.pod.uid().as_deref()).await.map_err(|e| failed(&e))?;
    let sandbox = sandboxes.into_iter().find(|s| s.ready);
    let sandbox =
        sandbox.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("pod {pod} does not run here")))?;
    let url = context
        .runtime
        .port_forward(&sandbox.id, &Query::parse(query.as_deref()).ports)
        .await
        .map_err(|e| failed(&e))?;
    tunnel(&url, request).await
}

/// What a client wants, in the kubelet's words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    command: Vec<String>,
    streams: Streams,
    ports: Vec<u16>,
}

impl Query {
    fn parse(query: Option<&str>) -> Query {
        let uri = format!("/?{}", query.unwrap_or_default());
        let pairs: Vec<(String, String)> = uri
            .parse::<Uri>()
            .ok()
            .and_then(|uri| axum::extract::Query::try_from_uri(&uri).ok())
            .map_or_else(Vec::new, |query| query.0);
        let mut wanted = Query::default();
        for (name, value) in pairs {
            let on = matches!(value.as_str(), "1" | "true");
            match name.as_str() {
                "command" => wanted.command.push(value),
                "input" | "stdin" => wanted.streams.stdin = on,
                "output" | "stdout" => wanted.streams.stdout = on,
                "error" | "stderr" => wanted.streams.stderr = on,
                "tty" => wanted.streams.tty = on,
                "port" | "ports" => {
                    wanted.ports.extend(value.split(',').filter_map(|p| p.parse::<u16>().ok()));
                }
                _ => {}
            }
        }
        // A terminal has one output.
        wanted.streams.stderr &= !wanted.streams.tty;
        wanted
    }
}

fn find(context: &Context, namespace: &str, pod: &str) -> Result<Entry, Refusal> {
    let found = context.pods.find(namespace, pod);
    found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("pod does not exist: {namespace}/{pod}")))
}

async fn running(context: &Context, namespace: &str, pod: &str, container: &str) -> Result<String, Refusal> {
    let entry = find(context, namespace, pod)?;
    let containers =
        context.runtime.list_containers(entry.pod.uid().as_deref()).await.map_err(|e| failed(&e))?;
    let found = containers.into_iter().find(|c| c.name == container && c.state == ContainerState::Running);
    found
        .map(|c| c.id)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))
}

fn failed(error: &RuntimeError) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn check_protocol(headers: &HeaderMap) -> Result<(), Refusal> {
    let upgrade = headers.get(UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if upgrade.is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|v| v.split(',')).map(str::trim).collect();
    let foreign = |p: &str| p.starts_with("v5.") || p.starts_with("SPDY/");
    if upgrade.eq_ignore_ascii_case("websocket") && !offered.is_empty() && offered.iter().all(|p| foreign(p))
    {
        let text = format!(
            "the container runtime does not speak {}: use SPDY/3.1 or v4.channel.k8s.io",
            offered.join(", ")
        );
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(())
}

/// Carries the connection to the runtime's streaming server, whose 101 is passed on. Anything else is the answer.
async fn tunnel(url: &str, mut request: Request) -> Result<Response, Refusal> {
    let bad = |what: String| {
        Refusal::new(StatusCode::BAD_GATEWAY, format!("the runtime's streaming server {url}: {what}"))
    };
    let target: Uri = url.parse().map_err(|_| bad("is no URL".to_owned()))?;
    let authority = target.authority().ok_or_else(|| bad("has no address".to_owned()))?;
    let stream = TcpStream::connect(authority.as_str()).await.map_err(|e| bad(e.to_string()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| bad(e.to_string()))?;
    tokio::spawn(connection.with_upgrades());

    let path = target.path_and_query().map_or("/", |p| p.as_str());
    let mut asked =
        hyper::Request::builder().method(request.method().clone()).uri(path).header(HOST, authority.as_str());
    if let Some(headers) = asked.headers_mut() {
        carry(request.headers(), headers);
    }
    let asked = asked.body(Empty::<Bytes>::new()).map_err(|e| bad(e.to_string()))?;
    let mut answer = sender.send_request(asked).await.map_err(|e| bad(e.to_string()))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(Body::new));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    carry(answer.headers(), response.headers_mut());
    let (client, runtime) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        let (Ok(client), Ok(runtime)) = tokio::join!(client, runtime) else { return };
        // Either end may close; that is the end of both.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(runtime)).await;
    });
    Ok(response)
}

fn carry(from: &HeaderMap, to: &mut HeaderMap) {
    for name in CARRIED {
        for value in from.get_all(name) {
            to.append(name, value.clone());
        }
    }
    to.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_the_kubelets() {
        let query =
            Query::parse(Some("command=sh&command=-c&command=echo%20a%26b&input=1&output=1&tty=1&error=1"));
        assert_eq!(query.command, ["sh", "-c", "echo a&b"]);
        assert_eq!(query.streams, Streams { stdin: true, stdout: true, stderr: false, tty: true });
        assert_eq!(Query::parse(Some("port=80&port=90")).ports, [80, 90]);
        assert_eq!(Query::parse(None), Query::default());
    }

    #[test]
    fn protocols_that_the_runtime_lacks_are_refused() {
        let headers = |upgrade: &'static str, protocol: &'static str| {
            let mut headers = HeaderMap::from_iter([(UPGRADE, upgrade.parse().unwrap())]);
            if !protocol.is_empty() {
                headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap());
            }
            check_protocol(&headers).is_ok()
        };
        assert!(headers("SPDY/3.1", ""));
        assert!(headers("websocket", "v4.channel.k8s.io"));
        assert!(headers("websocket", "v5.channel.k8s.io, v4.channel.k8s.io"));
        assert!(!headers("websocket", "v5.channel.k8s.io"));
        assert!(!headers("websocket", "SPDY/3.1+portforward.k8s.io"));
        assert!(check_protocol(&HeaderMap::new()).is_err());
    }
}
