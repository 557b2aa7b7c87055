//! The command line: syntax only. What the values mean is decided in `server` and `agent`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;

/// A small complete Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "kubelite", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Verb,
}

/// What to be.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the control plane, and a node beside it
    Server(ServerArgs),
    /// Run a node that joins a server
    Agent(AgentArgs),
}

/// `kubelite server`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// Address and port of the API server
    #[arg(long, env = "KUBELITE_HTTPS_LISTEN_PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Further names and addresses for the API server's certificate
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// The pods' network; flannel hands it out to the nodes
    #[arg(long, env = "KUBELITE_CLUSTER_CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: IpNetwork,
    /// Give each node a part of the pods' network (spec.podCIDR), for network plugins that take it from there, as flannel does with
    /// --kube-subnet-mgr
    #[arg(long, env = "KUBELITE_ALLOCATE_NODE_CIDRS")]
    pub allocate_node_cidrs: bool,
    /// The prefix length of a node's part
    #[arg(long, env = "KUBELITE_NODE_CIDR_MASK_SIZE", default_value_t = 24)]
    pub node_cidr_mask_size: u8,
    /// The services' network
    #[arg(long, env = "KUBELITE_SERVICE_CIDR", default_value = "10.43.0.0/16")]
    pub service_cidr: IpNetwork,
    /// How flannel carries packets between nodes; counts where there is no network config in etcd yet
    #[arg(long, env = "KUBELITE_FLANNEL_BACKEND", value_enum, default_value = "udp")]
    pub flannel_backend: FlannelBackend,
    /// Use these etcd servers in place of the embedded store
    #[arg(long, env = "KUBELITE_ETCD_ENDPOINTS", value_delimiter = ',')]
    pub etcd_endpoints: Vec<String>,
    /// CA certificate of these etcd servers
    #[arg(long, requires = "etcd_endpoints")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for these etcd servers
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// The secret with which agents join; made up at the first start if none is given
    #[arg(long, env = "KUBELITE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Where to write the administrator's kubeconfig
    #[arg(long, env = "KUBELITE_KUBECONFIG_OUTPUT", default_value = "/etc/kubelite/kubelite.yaml")]
    pub write_kubeconfig: PathBuf,
    /// Run the control plane alone, without a node
    #[arg(long)]
    pub disable_agent: bool,
}

/// What `--flannel-backend` chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlannelBackend {
    /// Bare packets in UDP, by flanneld
    Udp,
    /// The kernel's VXLAN
    Vxlan,
    /// Encrypted, by flanneld
    Wireguard,
    /// Plain routes; all nodes must be on one link
    HostGw,
}

/// `kubelite agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub node: NodeArgs,
    /// The server to join, e.g. https://192.0.2.1:6443
    #[arg(long, short, env = "KUBELITE_URL")]
    pub server: String,
    /// The server's token, from <data-dir>/server/token
    #[arg(long, short, env = "KUBELITE_TOKEN", hide_env_values = true)]
    pub token: String,
}

/// What server and agent share: the node.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Where all state is kept
    #[arg(long, short, env = "KUBELITE_DATA_DIR", default_value = "/var/lib/kubelite")]
    pub data_dir: PathBuf,
    /// The node's name [default: the host's name]
    #[arg(long, env = "KUBELITE_NODE_NAME")]
    pub node_name: Option<String>,
    /// The node's address [default: that of the interface with the default route]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Labels for the node at its registration, e.g. disk=ssd
    #[arg(long = "node-label", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// CRI socket of a running runtime; without it kubelite starts its own containerd
    #[arg(long, env = "CONTAINER_RUNTIME_ENDPOINT")]
    pub container_runtime_endpoint: Option<String>,
    /// The control group below which pods are put
    #[arg(long)]
    pub cgroup_root: Option<String>,
    /// The image of the pods' sandbox
    #[arg(long, default_value = concat!("docker.io/kubelite/pause:", env!("CARGO_PKG_VERSION")))]
    pub pause_image: String,
    /// The cluster's DNS server, for pods [default: the service kube-system/kube-dns]
    #[arg(long)]
    pub cluster_dns: Option<IpAddr>,
    /// The cluster's DNS domain
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
}
