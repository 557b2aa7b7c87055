//! The options of the wireguard backend, and the devices that they ask for.

use serde_json::{Map, Value};

use super::lane::Lane;
use crate::config::network::{BadNetwork, get};
use crate::datapath::wireguard::Preshared;
use crate::family::{Dual, Family};
use crate::iface::External;

/// The device's name, as flannel has it; those of the host's further networks are counted.
fn device(network: usize) -> String {
    if network == 0 { "flannel-wg".to_owned() } else { format!("flannel-wg{network}") }
}

/// The same where packets of IPv6 have a device of their own.
fn device_v6(network: usize) -> String {
    format!("{}-v6", device(network))
}

/// What flannel takes off the outer MTU: the headers of IPv6, UDP and WireGuard, and the tag. Over IPv4 it is 20 bytes less.
const OVERHEAD: u32 = 80;
const PORT: u16 = 51820;
const PORT_V6: u16 = 51821;

/// The options of the network's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The outer UDP port, of this node and of all that name no other.
    pub port: u16,
    /// The same where packets of IPv6 have a device of their own.
    pub port_v6: u16,
    mode: Mode,
    /// The outer MTU, where it is not the interface's.
    mtu: Option<u32>,
    pub(super) preshared: Option<Preshared>,
    /// In seconds; 0: none.
    pub(super) keepalive: u16,
}

/// How packets of each family travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Each by a device of its own, between the hosts' addresses of the same family.
    Separate,
    /// All by one device, between the hosts' addresses of whichever family is likelier to be reached.
    Auto,
    /// All by one device, between the hosts' addresses of this family.
    Over(Family),
}

impl Options {
    /// From the `Backend` object.
    pub fn parse(map: &Map<String, Value>) -> Result<Options, BadNetwork> {
        let bad = |problem: String| BadNetwork::Field { field: "Backend", problem };
        let number = |name: &str, default: u16| match get(map, name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                let number = value.as_u64().and_then(|n| u16::try_from(n).ok());
                number.ok_or_else(|| bad(format!("{name} {value} is no number up to {}", u16::MAX)))
            }
        };
        let port = |name: &str, default: u16| match number(name, default)? {
            0 => Err(bad(format!("{name} must not be 0: other nodes have to know it"))),
            port => Ok(port),
        };
        let text = |name: &str| match get(map, name) {
            None | Some(Value::Null) => Ok(""),
            Some(value) => value.as_str().ok_or_else(|| bad(format!("{name} must be a string"))),
        };
        let mode = match text("Mode")? {
            "" | "separate" => Mode::Separate,
            "auto" => Mode::Auto,
            "ipv4" => Mode::Over(Family::V4),
            "ipv6" => Mode::Over(Family::V6),
            mode => return Err(bad(format!("Mode {mode} is none of separate, auto, ipv4, ipv6"))),
        };
        let preshared = match text("PSK")? {
            "" => None,
            // Not shown: it may be right but for one letter.
            text => Some(text.parse().map_err(|error| bad(format!("PSK {error}; wg genpsk makes one")))?),
        };
        Ok(Options {
            port: port("ListenPort", PORT)?,
            port_v6: port("ListenPortV6", PORT_V6)?,
            mode,
            mtu: Some(number("MTU", 0)?).filter(|mtu| *mtu > 0).map(u32::from),
            preshared,
            keepalive: number("PersistentKeepaliveInterval", 0)?,
        })
    }

    /// The largest inner packet.
    pub fn mtu(&self, external: &External) -> u32 {
        self.mtu.unwrap_or(external.link.mtu).saturating_sub(OVERHEAD)
    }

    /// A device for each family that the network has, or one for all.
    pub(super) fn lanes<T>(&self, networks: &Dual<T>) -> Vec<Lane> {
        let one = |outer| vec![Lane::new(device, None, outer, self.port)];
        match self.mode {
            Mode::Separate => {
                let lane = |(family, _)| match family {
                    Family::V4 => Lane::new(device, Some(family), Some(family), self.port),
                    Family::V6 => Lane::new(device_v6, Some(family), Some(family), self.port_v6),
                };
                networks.iter().map(lane).collect()
            }
            Mode::Auto => one(None),
            Mode::Over(family) => one(Some(family)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{key, options};
    use super::*;
    use serde_json::json;

    #[test]
    fn options_have_flannels_defaults() {
        let plain = options(&json!({ "Type": "wireguard" })).unwrap();
        assert_eq!((plain.port, plain.port_v6, plain.keepalive), (51820, 51821, 0));
        assert_eq!((plain.mode, &plain.preshared), (Mode::Separate, &None));
        let set = json!({
            "listenport": 7000, "ListenPortV6": 7001, "MTU": 9000, "PersistentKeepaliveInterval": 25,
            "Mode": "auto", "PSK": key(1).to_string(),
        });
        let set = options(&set).unwrap();
        assert_eq!((set.port, set.port_v6, set.mtu, set.keepalive), (7000, 7001, Some(9000), 25));
        assert_eq!((set.mode, set.preshared.is_some()), (Mode::Auto, true));
        assert!(!format!("{set:?}").contains(&key(1).to_string()), "the PSK is not shown");
        for wrong in [
            json!({ "ListenPort": 0 }),
            json!({ "ListenPort": 70000 }),
            json!({ "ListenPortV6": 0 }),
            json!({ "PSK": "secret" }),
            json!({ "Mode": "both" }),
            json!({ "PersistentKeepaliveInterval": "25s" }),
        ] {
            assert!(options(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_mode_has_its_devices() {
        let both = Dual { v4: Some(()), v6: Some(()) };
        let of = |mode: &str, networks: &Dual<()>| {
            let lanes = options(&json!({ "Mode": mode })).unwrap().lanes(networks);
            lanes.iter().map(|lane| ((lane.device)(0), lane.inner, lane.port)).collect::<Vec<_>>()
        };
        let (v4, v6) = (
            ("flannel-wg".to_owned(), Some(Family::V4), 51820),
            ("flannel-wg-v6".to_owned(), Some(Family::V6), 51821),
        );
        assert_eq!(of("separate", &both), [v4.clone(), v6]);
        assert_eq!(of("separate", &Dual::only_v4(())), [v4]);
        for mode in ["auto", "ipv4", "ipv6"] {
            assert_eq!(of(mode, &both), [("flannel-wg".to_owned(), None, 51820)]);
        }
    }
}
