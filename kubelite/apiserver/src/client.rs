//! A `kube::Client` on the apiserver's router, without a socket: how scheduler, controllers and kubelet of the same
//! process reach the API, each under its own name, authorised and admitted like any other client.
//!
//! Upgrades (exec, attach, port-forward) need a connection to take over and are not for this client.

use axum::Router;
use axum::body::Body;
use http::Request;
use tower::ServiceExt;

use crate::request::UserInfo;

/// A client that asks as `user`. Its default namespace is `default`.
pub fn in_process_client(router: Router, user: UserInfo) -> kube::Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(user.clone());
        router.clone().oneshot(request)
    });
    kube::Client::new(service, "default")
}
