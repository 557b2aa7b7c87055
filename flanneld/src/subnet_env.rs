//! `subnet.env`: what the CNI plugin and container engines read, byte for byte as flannel writes it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ipnetwork::Ipv4Network;

/// What stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The whole network.
    pub network: Ipv4Network,
    /// The own subnet.
    pub subnet: Ipv4Network,
    /// The largest inner packet.
    pub mtu: u32,
    /// Whether flannel masquerades, so that nobody else needs to.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// The text. The subnet is told by its first address, which the bridge gets.
    pub fn encode(&self) -> String {
        let first = Ipv4Addr::from(u32::from(self.subnet.network()) + 1);
        format!(
            "FLANNEL_NETWORK={}\nFLANNEL_SUBNET={first}/{}\nFLANNEL_MTU={}\nFLANNEL_IPMASQ={}\n",
            self.network,
            self.subnet.prefix(),
            self.mtu,
            self.ip_masq
        )
    }

    /// Writes it in one step: a reader sees the old file or the new one. Symbolic links are replaced, not followed.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let part = path.with_extension(format!("env.{}", std::process::id()));
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&part)?;
        file.write_all(self.encode().as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, path)
    }
}

/// The subnet of the last time, if there was one.
pub fn previous(path: &Path) -> Option<Ipv4Network> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("FLANNEL_SUBNET="))?;
    let subnet: Ipv4Network = value.trim().parse().ok()?;
    Ipv4Network::new(subnet.network(), subnet.prefix()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_flannels_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/subnet.env");
        let env = SubnetEnv {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.89.0/24".parse().unwrap(),
            mtu: 1472,
            ip_masq: true,
        };
        env.write(&path).unwrap();
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(previous(&path), Some(env.subnet));
        assert_eq!(previous(Path::new("/no/such/file")), None);
    }

    #[test]
    fn a_link_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("subnet.env"));
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let net = "10.5.0.0/16".parse().unwrap();
        SubnetEnv { network: net, subnet: net, mtu: 1, ip_masq: false }.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    }
}
