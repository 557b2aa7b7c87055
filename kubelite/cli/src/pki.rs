//! The cluster's certificates: two authorities, and what they sign.
//!
//! ```text
//! cluster CA ─► apiserver (serving) · admin · apiserver→kubelet client · per node: kubelet client, kubelet serving
//! etcd CA    ─► server · client root · client flannel          service-account key: signs tokens, no certificate
//! ```
//!
//! Two authorities, so that no certificate of a node or a user opens the store. Everything lies in one directory as PEM,
//! readable by root alone. At each start a certificate is made anew if it ends soon, was signed by another CA, or lacks
//! a name. What doesn't live here: how agents ask for certificates (`join`), TLS itself.

mod authority;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;

pub use authority::KeyAndCertificate;
use authority::{Authority, Profile, Usage};

use crate::files::write_secret;

/// Names by which pods and this host reach the API server, whatever the node is called.
const SERVING_NAMES: &[&str] = &[
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "::1",
];

/// The loaded certificates of a server.
pub struct Pki {
    ca: Authority,
    etcd_ca: Authority,
    /// The API server's serving certificate.
    pub apiserver: KeyAndCertificate,
    /// A client of the API in `system:masters`.
    pub admin: KeyAndCertificate,
    /// By which the API server shows itself to kubelets.
    pub kubelet_client: KeyAndCertificate,
    /// The store's serving certificate.
    pub etcd_server: KeyAndCertificate,
    /// A client of the store for flannel's prefix.
    pub etcd_flannel: KeyAndCertificate,
    service_account: KeyPair,
}

impl Pki {
    /// Loads the certificates in `dir` and makes what is missing or worn out. `names` are further names and addresses of
    /// this server: the node's name, the advertised addresses, the first service address.
    pub fn load_or_create(dir: &Path, names: &[String]) -> Result<Pki> {
        let store = Store { dir, now: now()? };
        let own: Vec<String> = SERVING_NAMES.iter().map(ToString::to_string).chain(names.to_vec()).collect();
        let ca = store.authority("ca", "kubelite-ca")?;
        let etcd_ca = store.authority("etcd-ca", "kubelite-etcd-ca")?;
        let client = |cn: &str, group: &str| Profile::new(cn, group, Usage::Client, &[]);
        // For people with etcdctl: it is on disk, and nothing here uses it.
        store.leaf(&etcd_ca, "etcd-root", &client("root", ""))?;
        Ok(Pki {
            apiserver: store.leaf(
                &ca,
                "apiserver",
                &Profile::new("kube-apiserver", "", Usage::Server, &own),
            )?,
            admin: store.leaf(&ca, "admin", &client("kubernetes-admin", "system:masters"))?,
            kubelet_client: store.leaf(
                &ca,
                "apiserver-kubelet-client",
                &client("kube-apiserver-kubelet-client", "system:masters"),
            )?,
            etcd_server: store.leaf(&etcd_ca, "etcd-server", &Profile::new("etcd", "", Usage::Both, &own))?,
            etcd_flannel: store.leaf(&etcd_ca, "etcd-flannel", &client("flannel", ""))?,
            service_account: store.key("service-account")?,
            ca,
            etcd_ca,
        })
    }

    /// The cluster CA's certificate.
    pub fn ca_pem(&self) -> &str {
        self.ca.pem()
    }

    /// The store's CA certificate.
    pub fn etcd_ca_pem(&self) -> &str {
        self.etcd_ca.pem()
    }

    /// The key that signs service-account tokens (P-256, PKCS #8, DER).
    pub fn service_account_key(&self) -> Vec<u8> {
        self.service_account.serialize_der()
    }

    /// Signs the key of a CSR (PEM) as `system:node:<node>`; the names in the CSR are not looked at.
    pub fn sign_node_client(&self, csr: &str, node: &str) -> Result<String> {
        let profile = Profile::new(&format!("system:node:{node}"), "system:nodes", Usage::Client, &[]);
        self.ca.sign_csr(csr, &profile)
    }

    /// Signs the key of a CSR (PEM) for the kubelet's port of that node.
    pub fn sign_node_serving(&self, csr: &str, node: &str, ip: IpAddr) -> Result<String> {
        let names = [node.to_owned(), ip.to_string()];
        let profile = Profile::new(&format!("system:node:{node}"), "system:nodes", Usage::Server, &names);
        self.ca.sign_csr(csr, &profile)
    }
}

/// Seconds since 1970.
fn now() -> Result<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    Ok(i64::try_from(since.as_secs())?)
}

/// A kubeconfig for one cluster and one user; certificates and key are PEM.
pub fn kubeconfig(server_url: &str, ca: &str, user: &KeyAndCertificate) -> String {
    let (ca, cert, key) =
        (STANDARD.encode(ca), STANDARD.encode(&user.certificate), STANDARD.encode(&user.key));
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: kubelite\n  \
           cluster:\n    \
             server: {server_url}\n    \
             certificate-authority-data: {ca}\n\
         users:\n\
         - name: kubelite\n  \
           user:\n    \
             client-certificate-data: {cert}\n    \
             client-key-data: {key}\n\
         contexts:\n\
         - name: kubelite\n  \
           context:\n    \
             cluster: kubelite\n    \
             user: kubelite\n\
         current-context: kubelite\n"
    )
}

/// The directory, at a point in time (seconds since 1970).
struct Store<'a> {
    dir: &'a Path,
    now: i64,
}

impl Store<'_> {
    fn read(&self, file: &str) -> Result<Option<String>> {
        let path = self.dir.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn pair(&self, name: &str) -> Result<Option<KeyAndCertificate>> {
        let (key, certificate) = (self.read(&format!("{name}.key"))?, self.read(&format!("{name}.crt"))?);
        Ok(key.zip(certificate).map(|(key, certificate)| KeyAndCertificate { key, certificate }))
    }

    fn keep(&self, name: &str, pair: &KeyAndCertificate) -> Result<()> {
        write_secret(&self.dir.join(format!("{name}.key")), &pair.key)?;
        write_secret(&self.dir.join(format!("{name}.crt")), &pair.certificate)
    }

    /// A CA is made once. A damaged one is an error: a new one would lock every node and user out.
    fn authority(&self, name: &str, common_name: &str) -> Result<Authority> {
        let what = || {
            format!(
                "the authority {name} in {} cannot be used: restore {name}.key and {name}.crt from a backup, or delete \
                 the directory and let every node join again",
                self.dir.display()
            )
        };
        if let Some(pair) = self.pair(name)? {
            return Authority::load(&pair, self.now).with_context(what);
        }
        if let Some(half) = ["key", "crt"].iter().find(|end| self.dir.join(format!("{name}.{end}")).exists())
        {
            // A crash between the two writes leaves the key alone, and nothing is signed by it yet.
            anyhow::ensure!(*half == "key", what());
        }
        let pair = authority::create(common_name, self.now)?;
        self.keep(name, &pair)?;
        Authority::load(&pair, self.now).with_context(what)
    }

    fn leaf(&self, ca: &Authority, name: &str, profile: &Profile) -> Result<KeyAndCertificate> {
        if let Some(pair) = self.pair(name)? {
            match ca.accepts(&pair, profile, self.now) {
                Ok(()) => return Ok(pair),
                Err(reason) => tracing::info!(certificate = name, %reason, "made anew"),
            }
        }
        let pair = ca.issue(profile, self.now)?;
        self.keep(name, &pair)?;
        Ok(pair)
    }

    fn key(&self, name: &str) -> Result<KeyPair> {
        let file = format!("{name}.key");
        if let Some(text) = self.read(&file)? {
            let bad = || format!("{file} is damaged: restore it, or delete it and all tokens become invalid");
            return KeyPair::from_pem(&text).with_context(bad);
        }
        let key = KeyPair::generate()?;
        write_secret(&self.dir.join(file), &key.serialize_pem())?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests;
