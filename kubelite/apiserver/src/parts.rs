//! What the core is given besides its storage: authentication, authorisation, admission and the way to the nodes,
//! wired together. The core makes its cache first, shows it as [`Objects`], and gets the parts that look at it.

use std::sync::Arc;

use axum::Router;

use crate::admission::{self, Admission};
use crate::auth::authn::Credentials;
use crate::auth::chain::Chain;
use crate::auth::layers::Auth;
use crate::auth::reviews::Reviews;
use crate::auth::token::TokenKey;
use crate::auth::{Objects, Virtual, oidc};
use crate::connect::{Connector, NodeConnector, tunnel};
use crate::request::UserInfo;

/// The keys of the cluster, as `pki` made them.
pub struct Keys {
    /// Who makes service-account tokens: an https URL, by custom `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// The P-256 key that signs them (PKCS #8, DER).
    pub service_account_key: Vec<u8>,
    /// The CA of the kubelets' certificates (PEM).
    pub ca: String,
    /// The API server's certificate as a client of kubelets (PEM).
    pub kubelet_client_certificate: String,
    /// Its key (PEM).
    pub kubelet_client_key: String,
    /// Bearer tokens beside those of service accounts.
    pub static_tokens: Vec<(String, UserInfo)>,
}

/// The parts, ready for the core.
pub struct Parts {
    /// For the layers `auth::layers::{authenticate, authorize}`.
    pub auth: Auth,
    /// Reviews and tokens.
    pub reviews: Arc<dyn Virtual>,
    /// Logs, exec and proxies.
    pub connector: Arc<dyn Connector>,
    /// The compiled-in admission checks in their order.
    pub admission: Vec<Arc<dyn Admission>>,
    /// The OpenID documents, to be merged into the router behind the layers.
    pub discovery: Router,
}

impl Parts {
    /// Wires the parts over a view of the cache. Fails if a key is damaged.
    pub fn new(objects: &Arc<dyn Objects>, keys: &Keys) -> anyhow::Result<Parts> {
        let key = Arc::new(TokenKey::from_pkcs8(&keys.service_account_key, &keys.issuer)?);
        let authorizer = Arc::new(Chain::new(objects.clone()));
        let credentials = keys
            .static_tokens
            .iter()
            .fold(Credentials::new(objects.clone(), key.clone()), |credentials, (token, user)| {
                credentials.with_static_token(token, user.clone())
            });
        let credentials = Arc::new(credentials);
        let tls = tunnel::client_tls(&keys.ca, &keys.kubelet_client_certificate, &keys.kubelet_client_key)?;
        Ok(Parts {
            auth: Auth { authenticator: credentials.clone(), authorizer: authorizer.clone() },
            connector: Arc::new(NodeConnector::new(objects.clone(), authorizer.clone(), tls)),
            admission: admission::chain(objects, &authorizer),
            discovery: oidc::routes(key.clone()),
            reviews: Arc::new(Reviews { objects: objects.clone(), authorizer, credentials, key }),
        })
    }
}
