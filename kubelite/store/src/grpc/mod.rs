//! The etcd v3 API over the store: what etcdctl, flanneld and every other etcd client speaks.
//!
//! Each file is one service of the API; [`wire`] turns messages into requests and back, [`access`] says who may touch
//! which keys. What a single node cannot or need not do (members, leadership, downgrades) answers *unimplemented*
//! with a sentence, and authentication by password does not exist: clients prove who they are by certificate.

pub mod access;
mod cluster;
mod kv;
mod lease;
mod maintenance;
mod watch;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use etcd_client::proto::{
    PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbResponseHeader, PbWatchServer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::store::Store;
use crate::types::Revision;
pub use access::Access;

/// The one member's number, and the cluster's: there is no second one to tell it from.
const MEMBER_ID: u64 = 0x6b75_6265_6c69_7465;
/// How long open requests may take to end after a shutdown was asked for.
const GRACE: Duration = Duration::from_secs(2);
/// When a connection that says nothing is probed.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// Certificates of the server, PEM-encoded.
#[derive(Clone)]
pub struct Tls {
    /// The server's certificate chain.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// The authorities whose client certificates are accepted; a client without one is refused.
    pub client_ca: Vec<u8>,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Without TLS anybody who reaches the address could read and write everything.
    #[error("{0} is no loopback address: give the etcd API certificates, or let it listen on 127.0.0.1")]
    Plaintext(SocketAddr),
    /// The listener is not usable.
    #[error("the etcd API's listener: {0}")]
    Listener(#[from] std::io::Error),
    /// Certificates that do not parse or do not fit, or a failure of the transport.
    #[error("the etcd API: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// What all services share.
#[derive(Clone)]
struct Service {
    store: Store,
    access: Access,
    shutdown: CancellationToken,
}

impl Service {
    fn header(&self) -> Option<PbResponseHeader> {
        header(self.store.revision())
    }
}

fn header(revision: Revision) -> Option<PbResponseHeader> {
    Some(PbResponseHeader { cluster_id: MEMBER_ID, member_id: MEMBER_ID, revision, raft_term: 1 })
}

/// Serves the API until `shutdown`. Without `tls` the listener must be a loopback address.
pub async fn serve(
    store: Store,
    listener: TcpListener,
    tls: Option<Tls>,
    access: Access,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    let mut server = Server::builder();
    match tls {
        None if !address.ip().is_loopback() => return Err(ServeError::Plaintext(address)),
        None => {}
        Some(tls) => {
            let config = ServerTlsConfig::new()
                .identity(Identity::from_pem(tls.certificate, tls.key))
                .client_ca_root(Certificate::from_pem(tls.client_ca));
            server = server.tls_config(config)?;
        }
    }
    let service = Service { store, access, shutdown: shutdown.clone() };
    let router = server
        .add_service(PbKvServer::new(service.clone()))
        .add_service(PbWatchServer::new(service.clone()))
        .add_service(PbLeaseServer::new(service.clone()))
        .add_service(PbMaintenanceServer::new(service.clone()))
        .add_service(PbClusterServer::new(service));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(TCP_KEEPALIVE));
    let serving = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::select! {
        served = serving => Ok(served?),
        () = async { shutdown.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}
