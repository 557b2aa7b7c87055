//! The control plane and its node: a page that starts everything and wires it.
//!
//! ```text
//!  store (embedded, served as etcd │ a real etcd) ─► apiserver ─► TLS :6443, with /cacerts and the joining of agents
//!                                                       └─► in process, each under its own name: scheduler, controllers, kubelet
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use kubelite_apiserver::storage::StorageHandle;
use kubelite_store::Store;

use crate::args::ServerArgs;
use crate::join::NodeCredentials;
use crate::node::Identity;
use crate::node_keys::NodeKeys;
use crate::pki::{self, Pki};
use crate::token::Token;
use crate::{agent, flannel, join};

/// Where the embedded store is served; etcd's port.
const STORE_PORT: u16 = 2379;
