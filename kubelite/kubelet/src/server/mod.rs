//! The kubelet's own API, for the API server alone: logs, and streams into containers.
//!
//! ```text
//!  API server ─TLS, client certificate─► authorize ─► /containerLogs      the container's log file, as lines
//!                                                 └─► /exec /attach /portForward   tunnelled to the runtime's streaming server
//! ```
//!
//! What doesn't live here: SPDY and WebSocket framing. Client and runtime speak it to each other through the tunnel.

mod logs;
mod stream;
mod tls;

use crate::context::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::StatusCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use tls::Peer;

/// Who may use this API: administrators, and the API server's own client certificate.
const ALLOWED_GROUP: &str = "system:masters";
const ALLOWED_USER: &str = "kube-apiserver-kubelet-client";

/// Serves until `shutdown`.
///
/// # Errors
/// If the address is taken or the certificates are damaged.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = &context.config;
    let acceptor = tls::acceptor(&config.serving_certificate, &config.serving_key, &config.client_ca)?;
    let router = Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs))
        .route("/exec/{namespace}/{pod}/{container}", any(stream::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(stream::attach))
        .route("/portForward/{namespace}/{pod}", any(stream::port_forward))
        .route("/pods", get(pods))
        .route("/healthz", get(|| async { "ok" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found\n") })
        .layer(from_fn(authorize))
        .with_state(context.clone());
    tls::serve(config.listen, acceptor, router, shutdown).await
}

/// The pods of this node, as a PodList.
async fn pods(State(context): State<Arc<Context>>) -> Response {
    let items: Vec<_> = context.pods.all().iter().map(|entry| entry.pod.as_ref().clone()).collect();
    axum::Json(serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
        .into_response()
}

async fn authorize(request: Request, next: Next) -> Response {
    match request.extensions().get::<Peer>() {
        None => (StatusCode::UNAUTHORIZED, "Unauthorized\n").into_response(),
        Some(peer) if peer.groups.iter().any(|g| g == ALLOWED_GROUP) || peer.name == ALLOWED_USER => {
            next.run(request).await
        }
        Some(peer) => {
            let text = format!("Forbidden (user={}, path={})\n", peer.name, request.uri().path());
            (StatusCode::FORBIDDEN, text).into_response()
        }
    }
}

/// An answer that is no success: plain text, as upstream's kubelet gives it.
struct Refusal(StatusCode, String);

impl Refusal {
    fn new(code: StatusCode, text: impl Into<String>) -> Refusal {
        Refusal(code, text.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}
