//! The kubelet's own API: logs, exec, attach, port forwarding, and what runs here. Only the API server and cluster
//! administrators may use it.
//!
//! ```text
//! kubectl ── API server ── TLS, client certificate ──► here ──► log files
//!                                                       └─────► the runtime's streaming server (a tunnel of bytes,
//!                                                               or of channels for clients newer than the runtime)
//! ```
//!
//! - [`tls`]: who the client is.
//! - [`find`]: the pod and container that a request means.
//! - [`streams`]: exec, attach and port forwarding; [`tunnel`]: the connection behind them.
//! - [`channels`]: a WebSocket's channels as SPDY streams; [`spdy`]: the frames, [`dictionary`]: what they compress with.
//! - [`stats`]: what pods use.

mod channels;
mod dictionary;
mod find;
mod spdy;
mod stats;
mod streams;
mod tls;
mod tunnel;

use crate::context::Context;
use crate::logs::{self, Log, Options};
use anyhow::Context as _;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Json, Router};
use futures::StreamExt;
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;
use std::time::Duration;
use tls::Identity;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 1024;
/// A client has to finish its handshake within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Blocks of a log on their way to one client.
const LOG_BLOCKS: usize = 4;

/// What goes wrong is told as text, which the API server puts into its own status.
type Answer = Result<Response, (StatusCode, String)>;
/// The pairs of a query, in order: exec's `command` comes several times.
type Pairs = Query<Vec<(String, String)>>;

/// What handlers share.
#[derive(Clone)]
struct Server {
    context: Arc<Context>,
    /// Cancelled at the shutdown: tunnels end with it.
    shutdown: CancellationToken,
    /// Tunnels under way.
    tunnels: TaskTracker,
}

/// Begins to listen at `config.listen`; the future that it returns serves the kubelet's API until `shutdown`.
///
/// # Errors
/// If a certificate can't be used or the address can't be bound.
pub(crate) async fn start(
    context: Arc<Context>,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let address = context.config.listen;
    let tls = tls::server(&context.config).context("the kubelet's API can't be served")?;
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("the kubelet can't listen on {address}; is another kubelet running on this node?")
    })?;
    Ok(serve(listener, tls, context, shutdown))
}

async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    context: Arc<Context>,
    shutdown: CancellationToken,
) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let server = Server { context, shutdown: shutdown.clone(), tunnels: TaskTracker::new() };
    let router = router(server.clone());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accept = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let Some((slot, accepted)) = shutdown.run_until_cancelled(accept).await else { break };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, for example: it passes.
                tracing::warn!(%error, "a connection to the kubelet can't be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = connection(acceptor.clone(), stream, router.clone());
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            shutdown.run_until_cancelled(connection).await;
            drop(slot);
        });
    }
    connections.close();
    connections.wait().await;
    server.tunnels.close();
    server.tunnels.wait().await;
}

async fn connection(acceptor: tokio_rustls::TlsAcceptor, stream: TcpStream, router: Router) {
    // Keystrokes are small and wait for their echo.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection to the kubelet ended early");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a client's TLS handshake with the kubelet failed"),
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = certificate.and_then(Identity::of);
    let service = TowerToHyperService::new(router.layer(Extension(identity)));
    let http = hyper::server::conn::http1::Builder::new();
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        tracing::debug!(%error, "a connection to the kubelet ended");
    }
}

fn router(server: Server) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(pods))
        .route("/stats/summary", get(stats::summary))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .fallback(async |request: Request| {
            (StatusCode::NOT_FOUND, format!("the kubelet does not serve {}", request.uri().path()))
        })
        .layer(middleware::from_fn(authorize))
        .with_state(server)
}

async fn authorize(
    Extension(identity): Extension<Option<Identity>>,
    request: Request,
    next: Next,
) -> Response {
    match identity {
        None => (StatusCode::UNAUTHORIZED, "a client certificate is needed").into_response(),
        Some(identity) if !identity.allowed() => {
            let text = format!("Forbidden (user={}, resource=nodes, subresource=proxy)", identity.user);
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Some(_) => next.run(request).await,
    }
}

async fn pods(State(server): State<Server>) -> Response {
    let pods = server.context.pods.all().into_iter().map(|entry| {
        let mut pod = Arc::unwrap_or_clone(entry.pod);
        if let Some(status) = entry.status {
            pod.status = Some(Arc::unwrap_or_clone(status));
        }
        pod
    });
    Json(List::<Pod> { items: pods.collect(), ..List::default() }).into_response()
}

async fn container_logs(
    State(server): State<Server>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Pairs,
) -> Answer {
    let options = Options::parse(&query, jiff::Timestamp::now()).map_err(|e| (StatusCode::BAD_REQUEST, e))?;
    let (id, path) = find::log(&server.context, &namespace, &pod, &container, options.previous).await?;
    let log = Log { runtime: server.context.runtime.clone(), id, path };
    let (to, from) = tokio::sync::mpsc::channel(LOG_BLOCKS);
    tokio::spawn(async move {
        if let Err(error) = logs::send(&log, &options, &to).await {
            let text = format!("reading the log {}: {error}\n", log.path.display());
            // The answer began already; what a user can see is its end.
            let _ = to.send(Ok(text.into())).await;
        }
    });
    let shutdown = server.shutdown.clone();
    let body = ReceiverStream::new(from).take_until(shutdown.cancelled_owned());
    Ok(([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(body)).into_response())
}
