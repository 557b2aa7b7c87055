//! The way from a client to a node: `log`, `exec`, `attach`, `portforward` and `proxy` are carried to the kubelet.

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response};

use crate::request::RequestInfo;

/// Answers the subresources that are connections. `RequestInfo` and `UserInfo` are in the request's extensions,
/// authorised already (verb `get` or `create`, by the HTTP method, as upstream).
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Whether this request is answered here: pods/{log,exec,attach,portforward,proxy}, services/proxy, nodes/proxy.
    fn handles(&self, request: &RequestInfo) -> bool;

    /// Carries the raw request, body and upgrade included. Errors are answers with a Status as their body.
    async fn connect(&self, request: Request<Body>) -> Response<Body>;
}
