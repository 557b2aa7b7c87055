//! A node's own keys: made on the node, kept there, never sent; the server signs requests for certificates over them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, DnType, KeyPair};

use crate::join::NodeCredentials;
use crate::pki::KeyAndCertificate;

/// One key for speaking to the API server and one for the kubelet's port.
#[derive(Debug)]
pub struct NodeKeys {
    client: KeyPair,
    serving: KeyPair,
}

impl NodeKeys {
    /// The keys in `dir`, made at the first start.
    pub fn load_or_create(dir: &Path) -> Result<NodeKeys> {
        Ok(NodeKeys { client: key(&dir.join("client.key"))?, serving: key(&dir.join("serving.key"))? })
    }

    /// A request (PEM) for the certificate of `system:node:<node>`.
    pub fn client_csr(&self, node: &str) -> Result<String> {
        csr(&self.client, node)
    }

    /// A request (PEM) for the certificate of the kubelet's port.
    pub fn serving_csr(&self, node: &str) -> Result<String> {
        csr(&self.serving, node)
    }

    /// The keys together with what was signed for them.
    pub fn with(&self, ca: String, client: String, serving: String) -> NodeCredentials {
        let pair = |key: &KeyPair, certificate| KeyAndCertificate { key: key.serialize_pem(), certificate };
        NodeCredentials { ca, client: pair(&self.client, client), serving: pair(&self.serving, serving) }
    }
}

fn key(path: &Path) -> Result<KeyPair> {
    match fs::read_to_string(path) {
        Ok(pem) => KeyPair::from_pem(&pem).with_context(|| {
            format!("{} is damaged: remove it, and the node makes a new one", path.display())
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate()?;
            crate::files::write_secret(path, &key.serialize_pem())?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn csr(key: &KeyPair, node: &str) -> Result<String> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    Ok(params.serialize_request(key)?.pem()?)
}
