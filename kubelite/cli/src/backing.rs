//! What is behind the API server: the embedded store, served as etcd to flannel and etcdctl, or a real etcd.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use kubelite_apiserver::storage::embedded::Embedded;
use kubelite_apiserver::storage::etcd::{Etcd, EtcdConfig};
use kubelite_apiserver::storage::{StorageError, StorageHandle};
use kubelite_store::grpc::{self, Access, Tls};
use kubelite_store::{Options, Store};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::ServerArgs;
use crate::flannel;
use crate::pki::Pki;

/// Where the embedded store is served: etcd's port.
const PORT: u16 = 2379;
/// What flannel's certificate opens.
const FLANNEL_PREFIX: &str = "/coreos.com/network/";

/// The store, wherever it is.
pub enum Backing {
    /// In this process; flannel reaches it at this address.
    Embedded(Store, SocketAddr),
    /// Elsewhere.
    Remote(Arc<Etcd>, Remote),
}

/// How a real etcd is reached.
pub struct Remote {
    endpoints: Vec<String>,
    ca: String,
    certificate: String,
    key: String,
}

impl Backing {
    /// Opens the embedded store and serves it, or connects to the etcd that was named.
    pub async fn open(
        args: &ServerArgs,
        pki: &Pki,
        ip: IpAddr,
        parts: &mut JoinSet<Result<()>>,
        shutdown: CancellationToken,
    ) -> Result<Backing> {
        if !args.etcd_endpoints.is_empty() {
            return Backing::connect(args).await;
        }
        let store = Store::open(args.node.data_dir.join("server/store"), Options::default())?;
        let address = SocketAddr::new(ip, PORT);
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address}: does an etcd or another kubelite run here?")
        })?;
        let tls = Tls {
            certificate: pki.etcd_server.certificate.clone().into(),
            key: pki.etcd_server.key.clone().into(),
            client_ca: pki.etcd_ca_pem().into(),
        };
        let access = Access::by_common_name([("root", &[""][..]), ("flannel", &[FLANNEL_PREFIX][..])]);
        let served = store.clone();
        parts.spawn(async move { Ok(grpc::serve(served, listener, Some(tls), access, shutdown).await?) });
        Ok(Backing::Embedded(store, address))
    }

    async fn connect(args: &ServerArgs) -> Result<Backing> {
        let remote = Remote {
            endpoints: args.etcd_endpoints.clone(),
            ca: read(args.etcd_cafile.as_deref())?,
            certificate: read(args.etcd_certfile.as_deref())?,
            key: read(args.etcd_keyfile.as_deref())?,
        };
        let some = |pem: &String| (!pem.is_empty()).then(|| pem.clone().into_bytes());
        let config = EtcdConfig {
            endpoints: remote.endpoints.clone(),
            ca: some(&remote.ca),
            identity: some(&remote.certificate).zip(some(&remote.key)),
        };
        let etcd = Etcd::connect(config).await.context("cannot use the etcd of --etcd-endpoints")?;
        Ok(Backing::Remote(Arc::new(etcd), remote))
    }

    /// For the API server.
    pub fn storage(&self) -> StorageHandle {
        match self {
            Backing::Embedded(store, _) => StorageHandle(Arc::new(Embedded::new(store.clone()))),
            Backing::Remote(etcd, _) => StorageHandle(etcd.clone()),
        }
    }

    /// Writes a key unless it is there; says so if it is, with another value.
    pub async fn put_if_absent(&self, key: &str, value: &str) -> Result<()> {
        let storage = self.storage();
        match storage.create(key, value.to_owned().into(), None).await {
            Err(StorageError::Exists(_)) => {}
            other => return other.map(drop).with_context(|| format!("cannot write {key}")),
        }
        let (there, _) = storage.get(key).await.with_context(|| format!("cannot read {key}"))?;
        if let Some(there) = there.filter(|there| there.value != value.as_bytes()) {
            let there = String::from_utf8_lossy(&there.value);
            tracing::warn!(
                "{key} is {there} and stays so; `etcdctl put {key} '{value}'` makes it what the flags say"
            );
        }
        Ok(())
    }

    /// How flannel reaches it. A real etcd gives flannel the same certificate as the API server: its rights are its own matter.
    pub fn flannel(&self, pki: &Pki) -> flannel::Access {
        match self {
            Backing::Embedded(_, address) => flannel::Access {
                endpoints: format!("https://{address}"),
                ca: pki.etcd_ca_pem().to_owned(),
                certificate: pki.etcd_flannel.certificate.clone(),
                key: pki.etcd_flannel.key.clone(),
            },
            Backing::Remote(_, remote) => flannel::Access {
                endpoints: remote.endpoints.join(","),
                ca: remote.ca.clone(),
                certificate: remote.certificate.clone(),
                key: remote.key.clone(),
            },
        }
    }
}

fn read(path: Option<&Path>) -> Result<String> {
    let Some(path) = path else { return Ok(String::new()) };
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
