//! `subnet.env`: what the CNI plugin and container engines read, byte for byte as flannel writes it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ipnetwork::IpNetwork;

use crate::family::{Dual, Family, first_host, network};

/// What stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// The whole network of each family.
    pub networks: Dual<IpNetwork>,
    /// The own subnets.
    pub subnets: Dual<IpNetwork>,
    /// The largest inner packet.
    pub mtu: u32,
    /// Whether flannel masquerades, so that nobody else needs to.
    pub ip_masq: bool,
}

impl SubnetEnv {
    /// The text. A subnet is told by its first address, which the bridge gets.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for (family, subnet) in self.subnets.iter() {
            let Some(network) = self.networks.get(family) else { continue };
            let (net_name, subnet_name) = names(family);
            let (first, prefix) = (first_host(*subnet), subnet.prefix());
            text.push_str(&format!("{net_name}={network}\n{subnet_name}={first}/{prefix}\n"));
        }
        text.push_str(&format!("FLANNEL_MTU={}\nFLANNEL_IPMASQ={}\n", self.mtu, self.ip_masq));
        text
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

/// The names of a family's network and subnet.
fn names(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("FLANNEL_NETWORK", "FLANNEL_SUBNET"),
        Family::V6 => ("FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"),
    }
}

/// The subnets of the last time, if there were any.
pub fn previous(path: &Path) -> Dual<IpNetwork> {
    let text = fs::read_to_string(path).unwrap_or_default();
    Dual::of(|family| {
        let of_name = |line: &str| Some(line.strip_prefix(names(family).1)?.strip_prefix('=')?.to_owned());
        let subnet: IpNetwork = text.lines().find_map(of_name)?.trim().parse().ok()?;
        network(subnet.ip(), subnet.prefix()).filter(|subnet| Family::of(subnet.ip()) == family)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_flannels_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/subnet.env");
        let mut env = SubnetEnv {
            networks: Dual::only_v4("10.5.0.0/16".parse().unwrap()),
            subnets: Dual::only_v4("10.5.89.0/24".parse().unwrap()),
            mtu: 1472,
            ip_masq: true,
        };
        env.write(&path).unwrap();
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(previous(&path), env.subnets);
        assert_eq!(previous(Path::new("/no/such/file")), Dual::default());

        (env.networks.v6, env.subnets.v6) = ("fc00::/48".parse().ok(), "fc00:0:0:1::/64".parse().ok());
        env.write(&path).unwrap();
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_IPV6_NETWORK=fc00::/48\n\
                    FLANNEL_IPV6_SUBNET=fc00:0:0:1::1/64\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(previous(&path), env.subnets);
    }

    #[test]
    fn a_link_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("subnet.env"));
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let nets = Dual::default();
        SubnetEnv { networks: nets, subnets: nets, mtu: 1, ip_masq: false }.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    }
}
