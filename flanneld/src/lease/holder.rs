//! Which host holds a lease: the field `Holder` at the end of its value, beside flannel's own, and `Claimant` while another host with the same
//! address asks for it. Go's decoder passes over both.
//!
//! A lease is found again by its `PublicIP`. Two hosts to which the same address was given would use one lease both, so a host
//! that finds its address in a lease of another holder asks first: it writes itself into the record as the claimant. The holder, if it
//! is alive, sees that and writes its record anew; then the claimant has no lease and says why. If nobody answers
//! ([`super::keeper::CLAIM`]) the holder is dead: the host was started again or installed anew, and has its subnet back. A holder that
//! cannot reach etcd for so long loses such a claim as well.
//!
//! A host that was started again may have another address, too. Then the field `Machine` tells that a lease was its own, and it asks in the same
//! way: machines that were copied have one name, and if the holder is alive it is another one.

use std::fs;
use std::os::unix::fs::MetadataExt;

use ring::digest::{SHA256, digest};
use serde_json::Value;

const HOLDER: &str = "Holder";
const MACHINE: &str = "Machine";
const CLAIMANT: &str = "Claimant";

/// This host, from its start to its end: the kernel's id of this boot, and the network namespace.
pub fn this_host() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino());
    format!("{}/{namespace}", boot.trim())
}

/// Where a machine has a name that lasts: its hardware's, which a container sees too, and its installation's.
const NAMES: [&str; 2] = ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"];

/// This host across its starts, as a hash: the machine's names are nobody else's business (machine-id(5)). None if it has no name.
pub fn this_machine() -> Option<String> {
    let names: Vec<String> = NAMES.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    // Namespaces of one machine are hosts of their own. The number of the first one is the same after each start.
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino());
    let hash = digest(&SHA256, format!("flanneld {} {namespace}", names.join(" ")).as_bytes());
    let text = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    (!names.is_empty()).then_some(text)
}

/// Who holds a lease, and who claims it; none as far as it doesn't say so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// The host that wrote it.
    pub holder: Option<String>,
    /// That host across its starts.
    pub machine: Option<String>,
    /// Another one that wants to know whether the holder is alive.
    pub claimant: Option<String>,
}

impl Holding {
    /// From a lease's value.
    pub fn of(value: &[u8]) -> Holding {
        let value: Value = serde_json::from_slice(value).unwrap_or_default();
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        Holding { holder: text(HOLDER), machine: text(MACHINE), claimant: text(CLAIMANT) }
    }

    /// Whether the lease may be used by this host without a question. What does not say whose it is is Go flannel's, or an operator's.
    pub fn is_of(&self, host: &str) -> bool {
        self.holder.as_deref().is_none_or(|holder| holder == host)
    }
}

/// The value of a lease, with its holder, and what the holder is called across its starts.
pub fn held(value: &str, holder: &str, machine: Option<&str>) -> String {
    let held = with(value, HOLDER, holder);
    machine.map_or(held.clone(), |machine| with(&held, MACHINE, machine))
}

/// The value of another host's lease, with who claims it; none if it is no object.
pub fn claimed(value: &[u8], claimant: &str) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_end();
    // A claim that nobody answered, and whose claimant did not come back.
    let text = match text.find(&format!(r#","{CLAIMANT}":"#)) {
        Some(at) => format!("{}}}", &text[..at]),
        None => text.to_owned(),
    };
    text.ends_with('}').then(|| with(&text, CLAIMANT, claimant))
}

fn with(value: &str, name: &str, text: &str) -> String {
    let open = value.trim_end().strip_suffix('}').unwrap_or(value);
    format!(r#"{open},"{name}":{}}}"#, Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_and_claimant_stand_behind_flannels_fields() {
        let plain = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#;
        let mine = held(plain, "a/1", None);
        assert_eq!(mine, r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"Holder":"a/1"}"#);
        let claimed_once = claimed(mine.as_bytes(), "b/2").unwrap();
        assert_eq!(
            claimed_once,
            r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"Holder":"a/1","Claimant":"b/2"}"#
        );
        let twice = claimed(claimed_once.as_bytes(), "c/3").unwrap();
        let expected = Holding { holder: Some("a/1".into()), machine: None, claimant: Some("c/3".into()) };
        assert_eq!(Holding::of(twice.as_bytes()), expected);
        assert!(expected.is_of("a/1") && !expected.is_of("c/3"));
        let named = claimed(held(plain, "a/1", Some("m")).as_bytes(), "b/2").unwrap();
        assert!(named.ends_with(r#","Holder":"a/1","Machine":"m","Claimant":"b/2"}"#), "{named}");
        assert_eq!(Holding::of(named.as_bytes()).machine.as_deref(), Some("m"));
        for nobodys in [plain, "{", "[]", ""] {
            assert_eq!(Holding::of(nobodys.as_bytes()), Holding::default(), "{nobodys}");
        }
        assert!(Holding::default().is_of("a/1"));
        assert_eq!(claimed(b"[]", "b"), None);
    }

    #[test]
    fn a_host_is_itself() {
        assert_eq!(this_host(), this_host());
        assert!(this_host().len() > 36, "{}", this_host());
        assert!(this_machine() == this_machine() && this_machine().is_none_or(|name| name.len() == 32));
    }
}
