//! What the kubelet is told at its start. Syntax (flags, files) belongs to the caller.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The kubelet's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Node object's name.
    pub node_name: String,
    /// The node's InternalIP, and the IP of pods in the host's network.
    pub node_ip: IpAddr,
    /// Pods' files lie in `<data_dir>/pods/<uid>/`.
    pub data_dir: PathBuf,
    /// Containers' logs lie in `<log_dir>/<namespace>_<pod>_<uid>/<container>/<n>.log`; usually `/var/log/pods`.
    pub log_dir: PathBuf,
    /// The runtime's unix socket, which speaks CRI v1.
    pub runtime_endpoint: PathBuf,
    /// The cluster's DNS service, for pods with dnsPolicy ClusterFirst. Without it they get the node's resolver.
    pub cluster_dns: Option<IpAddr>,
    /// The cluster's DNS domain, usually `cluster.local`.
    pub cluster_domain: String,
    /// Where the kubelet's own API is served, usually port 10250.
    pub listen: SocketAddr,
    /// PEM of the serving certificate and its chain.
    pub serving_certificate: String,
    /// PEM of the serving certificate's private key.
    pub serving_key: String,
    /// PEM of the authority whose clients may use the kubelet's API.
    pub client_ca: String,
    /// Labels that the Node gets at registration.
    pub labels: BTreeMap<String, String>,
    /// The cgroup below which `kubepods/pod<uid>` lies. None leaves placement to the runtime.
    pub cgroup_root: Option<String>,
    /// How many pods the node offers to run, usually 110.
    pub max_pods: u32,
}

impl Config {
    /// The directory of one pod's files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Settings for unit tests; nothing in them exists.
    pub(crate) fn config() -> Config {
        Config {
            node_name: "node".into(),
            node_ip: IpAddr::from([192, 0, 2, 1]),
            data_dir: "/none/kubelet".into(),
            log_dir: "/none/pods".into(),
            runtime_endpoint: "/none/socket".into(),
            cluster_dns: Some(IpAddr::from([10, 96, 0, 10])),
            cluster_domain: "cluster.local".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            serving_certificate: String::new(),
            serving_key: String::new(),
            client_ca: String::new(),
            labels: BTreeMap::new(),
            cgroup_root: None,
            max_pods: 110,
        }
    }
}
