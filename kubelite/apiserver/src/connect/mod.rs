//! The way from a client to a node: `log`, `exec`, `attach`, `portforward` and `proxy` are carried to the kubelet.
//!
//! ```text
//! request ─► Target (pure: which node, which path; target.rs) ─► one fresh TLS connection ─► kubelet   (tunnel.rs)
//!                                       answer streamed back │ 101: bytes both ways until one side ends
//! ```
//!
//! What goes through an upgraded connection is never looked at: SPDY/3.1 and WebSocket are the kubelet's matter. Logs
//! alone may be asked for over a WebSocket that ends here (websocket.rs).

pub mod target;
pub mod tunnel;
mod websocket;

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response};
use kubelite_api::status::ApiError;
use rustls::ClientConfig;

use crate::auth::layers::{forbidden, respond};
use crate::auth::{Authorizer, Decision, Objects};
use crate::request::{RequestInfo, UserInfo};
use target::{Destination, Target};
use tunnel::Tunnels;

/// Answers the subresources that are connections. `RequestInfo` and `UserInfo` are in the request's extensions,
/// authorised already (verb `get` or `create`, by the HTTP method, as upstream).
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Whether this request is answered here: pods/{log,exec,attach,portforward,proxy}, services/proxy, nodes/proxy.
    fn handles(&self, request: &RequestInfo) -> bool;

    /// Carries the raw request, body and upgrade included. Errors are answers with a Status as their body.
    async fn connect(&self, request: Request<Body>) -> Response<Body>;
}

/// The connector of the cluster.
pub struct NodeConnector {
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    tunnels: Tunnels,
}

impl NodeConnector {
    /// Finds pods and nodes in `objects`; speaks TLS to kubelets with `tls` (see [`tunnel::client_tls`]).
    pub fn new(objects: Arc<dyn Objects>, authorizer: Arc<dyn Authorizer>, tls: Arc<ClientConfig>) -> Self {
        NodeConnector { objects, authorizer, tunnels: Tunnels::new(tls) }
    }

    async fn carry(&self, mut request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let missing = || ApiError::internal("the request reached the connector without user or RequestInfo");
        let info = request.extensions().get::<RequestInfo>().cloned().ok_or_else(missing)?;
        let user = request.extensions().get::<UserInfo>().cloned().ok_or_else(missing)?;
        self.authorize_upgrade(&user, &info)?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        match target::find(self.objects.as_ref(), &info, &query)? {
            Destination::Nowhere => Ok(Response::new(Body::empty())),
            Destination::At(target) => {
                let socket = if info.subresource == "log" { websocket::take(&mut request)? } else { None };
                check_upgrade(&target, request.headers())?;
                tunnel::clean_request(&mut request);
                let answer = self.tunnels.carry(&target, request).await?;
                Ok(match socket {
                    Some(socket) => socket.answer(answer),
                    None => answer,
                })
            }
        }
    }

    /// A WebSocket begins with GET, and `get pods/exec` reads as if it were harmless: what changes a pod needs `create`.
    fn authorize_upgrade(&self, user: &UserInfo, info: &RequestInfo) -> Result<(), ApiError> {
        let changes = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
        if !changes || info.verb == "create" {
            return Ok(());
        }
        let create = RequestInfo { verb: "create".to_owned(), ..info.clone() };
        match self.authorizer.authorize(user, &create) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) => Err(forbidden(user, &create, &reason)),
        }
    }
}

/// exec and its like are upgrades or nothing; a node's proxy never is one, so that it cannot be a way around pods/exec.
fn check_upgrade(target: &Target, headers: &http::HeaderMap) -> Result<(), ApiError> {
    match (target.upgrade, tunnel::wants_upgrade(headers)) {
        (target::Upgrade::Required, false) => Err(ApiError::bad_request(
            "Upgrade request required: exec, attach and portforward speak SPDY/3.1 or WebSocket",
        )),
        (target::Upgrade::Refused, true) => {
            Err(ApiError::bad_request("this subresource takes no upgraded connections"))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Connector for NodeConnector {
    fn handles(&self, request: &RequestInfo) -> bool {
        request.is_resource
            && request.group.is_empty()
            && matches!(
                (request.resource.as_str(), request.subresource.as_str()),
                ("pods", "log" | "exec" | "attach" | "portforward" | "proxy")
                    | ("services" | "nodes", "proxy")
            )
    }

    async fn connect(&self, request: Request<Body>) -> Response<Body> {
        self.carry(request).await.unwrap_or_else(|error| respond(&error))
    }
}
