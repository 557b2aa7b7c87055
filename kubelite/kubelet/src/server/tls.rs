//! Who a client is: its certificate, verified by the cluster's client authority, says so.

use crate::Config;
use anyhow::Context as _;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// The common name of the API server's client certificate.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// A verified client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// Common name: the user.
    pub(super) user: String,
    /// Organizations: the groups.
    pub(super) groups: Vec<String>,
}

impl Identity {
    /// The user of a certificate whose signature was verified; None if it can't be read.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Identity> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(Identity::named(certificate.subject()))
    }

    fn named(name: &X509Name<'_>) -> Identity {
        let groups = name.iter_organization().filter_map(|o| o.as_str().ok());
        Identity {
            user: name
                .iter_common_name()
                .next()
                .and_then(|n| n.as_str().ok())
                .unwrap_or_default()
                .to_string(),
            groups: groups.map(str::to_string).collect(),
        }
    }

    /// Whether the client may use the kubelet's API. There is no finer right: whoever may exec may do all.
    pub(super) fn allowed(&self) -> bool {
        self.user == API_SERVER || self.groups.iter().any(|group| group == MASTERS)
    }
}

/// The serving side of TLS. Clients without a certificate get through the handshake, so that they can be told why they
/// are refused; those with a certificate of another authority don't.
pub(super) fn server(config: &Config) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in
        certificates(&config.client_ca).context("reading the client authority's certificate")?
    {
        roots.add(certificate).context("the client authority's certificate can't be used")?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("the client authority's certificate can't be used")?;
    let chain = certificates(&config.serving_certificate).context("reading the serving certificate")?;
    let key = PrivateKeyDer::from_pem_slice(config.serving_key.as_bytes())
        .context("reading the serving certificate's key")?;
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("the serving certificate and its key can't be used")?;
    // Connections are upgraded for exec and its like, which HTTP/2 can't do.
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!all.is_empty(), "there is no certificate in it");
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_use_the_api() {
        let cases: [(&str, &[&str], bool); 4] = [
            (API_SERVER, &[], true),
            ("admin", &["devs", MASTERS], true),
            ("system:node:n", &["system:nodes"], false),
            (MASTERS, &[], false),
        ];
        for (user, groups, allowed) in cases {
            let groups = groups.iter().map(|g| g.to_string()).collect();
            assert_eq!(Identity { user: user.into(), groups }.allowed(), allowed, "{user}");
        }
    }
}
